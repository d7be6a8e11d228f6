"""The process: settings, start, SIGTERM, and coming back with what it served."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from services.chassis.settings import SettingsError
from services.predictor.__main__ import main

ROOT = Path(__file__).resolve().parents[3]


def start(tmp_path: Path, **settings: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TW_")}
    own = {"PORT": "0", "CACHE_DIRECTORY": str(tmp_path / "cache"), "THREADS": "1", "KV_BLOCKS": "8", **settings}
    environment |= {f"TW_PREDICTOR_{name}": value for name, value in own.items()}
    command = [sys.executable, "-m", "services.predictor"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], phrase: str) -> str:
    return read_until(process, phrase)[-1]


def read_until(process: subprocess.Popen[str], phrase: str) -> list[str]:
    """The lines up to that which has the phrase."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if phrase in line:
            return lines
    raise AssertionError(f"the process ended without saying {phrase!r}")


def port_of(line: str) -> int:
    found = re.search(r"port=(\d+)", line)
    assert found is not None
    return int(found[1])


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def post(port: int, path: str, body: object) -> object:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), method="POST")
    with urllib.request.urlopen(request) as response:
        return json.load(response)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("KV_BLOKS", "8", ("TW_PREDICTOR_KV_BLOKS", "UNKNOWN")),
        ("KV_BLOCKS", "0", ("kv_blocks", "GREATER_THAN_EQUAL")),
        ("PRECISION", "f8", ("precision", "ENUM")),
    ],
)
def test_unknown_and_wrong_settings_stop_the_process_by_name(
    name: str, value: str, wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"TW_PREDICTOR_{name}", value)
    with pytest.raises(SettingsError) as caught:
        main()
    assert caught.value.wrong == [wrong]
    assert wrong[0] in str(caught.value)


def test_it_serves_stops_cleanly_on_sigterm_and_comes_back_after_a_kill(tmp_path: Path, first_model: Path) -> None:
    body = {"model": "tiny-1", "prompt": "abc", "max_tokens": 8, "temperature": 0}
    first = start(tmp_path, STARTUP_MODELS=json.dumps([str(first_model)]))
    port = port_of(wait_for(first, "listening"))
    wait_for(first, "version ready")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready") as response:
        assert response.status == 200
    reply = post(port, "/v1/completions", body)
    first.kill()
    first.communicate(timeout=60)

    second = start(tmp_path)
    port = port_of(wait_for(second, "listening"))
    wait_for(second, "version ready")
    again = post(port, "/v1/completions", body)
    assert isinstance(reply, dict) and isinstance(again, dict)
    assert again["choices"] == reply["choices"]
    said = stop(second)
    assert "draining" in said
    assert "stopped" in said


def test_it_is_not_ready_before_it_serves_what_its_peer_does(tmp_path: Path, first_model: Path) -> None:
    """As an upgrade starts it beside the one that goes; the version was loaded by a call, so no setting names it."""
    first = start(tmp_path / "first")
    old = port_of(wait_for(first, "listening"))
    post(old, "/v2/repository/models/tiny-1/load", {"parameters": {"directory": str(first_model)}})
    second = start(tmp_path / "second", PEER_URL=f"http://127.0.0.1:{old}")
    port = port_of(wait_for(second, "listening"))
    with pytest.raises(urllib.error.HTTPError) as not_yet:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready")
    not_yet.value.close()
    wait_for(second, "version ready")
    wait_until_ready(port)
    assert [entry["name"] for entry in post(port, "/v2/repository/index", {})] == ["tiny-1"]
    stop(first)
    stop(second)


def test_where_no_peer_is_it_is_ready_with_what_it_has(tmp_path: Path) -> None:
    alone = start(tmp_path, PEER_URL="http://127.0.0.1:1")
    said = read_until(alone, "listening")
    if not any("no peer" in line for line in said):  # it looks for one beside that
        read_until(alone, "no peer")
    port = port_of(said[-1])
    wait_until_ready(port)
    assert post(port, "/v2/repository/index", {}) == []
    stop(alone)


def test_a_connection_that_was_kept_is_closed_when_it_drains(tmp_path: Path) -> None:
    """Or its owner would send the next request to a process that refuses it, while others would answer."""
    process = start(tmp_path)
    port = port_of(wait_for(process, "listening"))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as kept:
        kept.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: predictor\r\n\r\n")
        assert b"200 OK" in kept.recv(65_536)
        process.send_signal(signal.SIGTERM)
        assert kept.recv(65_536) == b""
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def wait_until_ready(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready"):
                return
        except urllib.error.HTTPError as error:
            error.close()
            assert time.monotonic() < end
        time.sleep(0.05)


def test_one_model_of_the_start_mounted_anywhere_is_served_under_the_version_of_its_manifest(
    tmp_path: Path, first_model: Path
) -> None:
    """As KServe mounts it: the folder's name says nothing."""
    mounted = tmp_path / "mnt" / "models"
    shutil.copytree(first_model, mounted)
    process = start(
        tmp_path,
        STARTUP_MODELS=json.dumps([str(mounted)]),
        MODELS_ROOT=str(mounted),
        MAX_VERSIONS="1",
        FAILURE_FILE=str(tmp_path / "failure"),
    )
    port = port_of(wait_for(process, "listening"))
    wait_for(process, "version ready")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as response:
        assert [each["id"] for each in json.load(response)["data"]] == ["tiny-1"]
    stop(process)
    assert not (tmp_path / "failure").exists()


def test_a_model_of_the_start_that_cannot_be_loaded_ends_the_process_with_its_reason(
    tmp_path: Path, first_model: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(first_model, broken)
    (broken / "tokenizer.json").write_text("{}")
    failure = tmp_path / "failure"
    process = start(tmp_path, STARTUP_MODELS=json.dumps([str(broken)]), FAILURE_FILE=str(failure))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    reason = failure.read_text()
    assert reason.startswith("tiny-1: ")
    assert {"manifest.json", "tokenizer.json"} <= set(re.findall(r"[a-z.]+", reason))


def test_without_a_place_for_the_reason_it_stays_and_is_not_ready(tmp_path: Path) -> None:
    process = start(tmp_path, STARTUP_MODELS=json.dumps([str(tmp_path / "nowhere")]))
    port = port_of(wait_for(process, "listening"))
    wait_for(process, "load failed")
    with pytest.raises(urllib.error.HTTPError) as not_ready:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready")
    not_ready.value.close()
    assert not_ready.value.code == 503
    stop(process)


def test_it_may_be_told_to_end_before_its_models_are_loaded(tmp_path: Path, first_model: Path) -> None:
    failure = tmp_path / "failure"
    process = start(tmp_path, STARTUP_MODELS=json.dumps([str(first_model)]), FAILURE_FILE=str(failure))
    wait_for(process, "listening")
    stop(process)
    assert not failure.exists()
