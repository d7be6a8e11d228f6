"""Settings, start, SIGTERM, and recovery of the loaded versions.

Tests of the process itself run in a separate process.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.chassis.settings import SettingsError
from services.predictor.__main__ import main, serve
from services.predictor.graph.conversion import convert
from services.predictor.ir_cache import IrCache
from services.predictor.manifest import DigestCache, check_manifest
from services.predictor.settings import PredictorSettings
from tests.services.predictor.conftest import BEARER, KEY

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def graphs(first_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a graph cache with the converted graph of the first model."""
    folder = tmp_path_factory.mktemp("graphs")
    manifest = check_manifest(first_model, "tiny-1", DigestCache(folder.with_suffix(".json")))
    IrCache(folder, 1, convert).get(manifest)
    return folder


def start(tmp_path: Path, **settings: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TW_")}
    own = {
        "PORT": "0",
        "METRICS_PORT": "0",
        "MODEL_SERVER_KEY": KEY,
        "CACHE_DIRECTORY": str(tmp_path / "cache"),
        "THREADS": "1",
        "KV_BLOCKS": "8",
        **settings,
    }
    environment |= {f"TW_PREDICTOR_{name}": value for name, value in own.items()}
    command = [sys.executable, "-m", "services.predictor"]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], phrase: str) -> str:
    return read_until(process, phrase)[-1]


def read_until(process: subprocess.Popen[str], phrase: str) -> list[str]:
    """Return the lines up to the first with this phrase."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if phrase in line:
            return lines
    raise AssertionError(f"the process ended without logging {phrase!r}")


def port_of(line: str) -> int:
    found = re.search(r"port=(\d+)", line)
    assert found is not None
    return int(found[1])


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, log_text = process.communicate(timeout=60)
    assert process.returncode == 0, log_text
    return log_text


class Serving:
    """A predictor in this process, between "listening" and SIGTERM."""

    def __init__(self, log: pytest.LogCaptureFixture, task: asyncio.Task[int]) -> None:
        self._log, self._task = log, task

    async def wait_for_log(self, phrase: str) -> dict[str, Any]:
        """Wait for a log record with this phrase and return its fields."""
        while True:
            for record in self._log.records:
                if record.getMessage() == phrase:
                    return dict(getattr(record, "fields", {}))
            assert not self._task.done(), f"the predictor ended without logging {phrase!r}"
            await asyncio.sleep(0.01)

    @property
    async def port(self) -> int:
        return int((await self.wait_for_log("listening"))["port"])

    async def status(self, path: str) -> int:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{await self.port}{path}") as answer,
        ):
            return answer.status

    async def ended(self) -> int:
        return await self._task


@asynccontextmanager
async def serving(
    tmp_path: Path, log: pytest.LogCaptureFixture, **settings: Any
) -> AsyncIterator[Serving]:
    """Run a predictor in this process.

    After the block a running predictor gets SIGTERM and must return 0.
    """
    log.set_level("INFO", logger="services.predictor")
    own = {
        "port": 0,
        "metrics_port": 0,
        "model_server_key": KEY,
        "cache_directory": tmp_path / "cache",
        "threads": 1,
        "kv_blocks": 8,
        **settings,
    }
    task = asyncio.create_task(serve(PredictorSettings(**own)))
    found = Serving(log, task)
    await found.wait_for_log("listening")
    yield found
    if not task.done():
        signal.raise_signal(signal.SIGTERM)
        assert await task == 0


def post(port: int, path: str, body: object) -> object:
    headers = {"Content-Type": "application/json", **BEARER}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers, method="POST"
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("KV_BLOKS", "8", ("TW_PREDICTOR_KV_BLOKS", "UNKNOWN")),
        ("KV_BLOCKS", "0", ("kv_blocks", "GREATER_THAN_EQUAL")),
        ("PRECISION", "f8", ("precision", "ENUM")),
        ("MODEL_SERVER_KEY", "", ("model_server_key", "TOO_SHORT")),
        ("MODEL_SERVER_KEY", "sixteen-and-more\n", ("model_server_key", "HEADER_KEY")),
    ],
)
def test_unknown_and_invalid_settings_stop_the_process_by_name(
    name: str, value: str, wrong: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TW_PREDICTOR_MODEL_SERVER_KEY", "k" * 16)
    monkeypatch.setenv(f"TW_PREDICTOR_{name}", value)
    with pytest.raises(SettingsError) as caught:
        main()
    assert caught.value.wrong == [wrong]
    assert wrong[0] in str(caught.value)


def test_the_process_stops_on_sigterm_and_reloads_versions_after_a_kill(
    tmp_path: Path, first_model: Path
) -> None:
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
    log_text = stop(second)
    assert "draining" in log_text
    assert "stopped" in log_text


def test_the_process_is_ready_after_loading_the_versions_of_its_peer(
    tmp_path: Path, first_model: Path, graphs: Path
) -> None:
    """As in an upgrade, next to the pod that ends.

    The version was loaded by a request, so no setting names the version.
    """
    for name in ("first", "second"):
        shutil.copytree(graphs, tmp_path / name / "cache" / "graphs")
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


async def test_without_a_peer_the_process_becomes_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, caplog, peer_url="http://127.0.0.1:1") as alone:
        await alone.wait_for_log("no peer")
        while await alone.status("/v2/health/ready") != 200:
            await asyncio.sleep(0.01)
        async with (
            aiohttp.ClientSession(headers=BEARER) as http,
            http.post(
                f"http://127.0.0.1:{await alone.port}/v2/repository/index", json={}
            ) as answer,
        ):
            assert await answer.json() == []


async def test_sigterm_closes_idle_connections_while_answers_finish(
    tmp_path: Path, first_model: Path, graphs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An idle connection left open would carry the next request to a process that refuses it."""
    shutil.copytree(graphs, tmp_path / "cache" / "graphs")
    body = {
        "model": "tiny-1",
        "prompt": "abc",
        "max_tokens": 500,
        "ignore_eos": True,
        "stream": True,
    }
    async with (
        serving(tmp_path, caplog, startup_models=(first_model,), kv_blocks=32) as predictor,
        aiohttp.ClientSession(f"http://127.0.0.1:{await predictor.port}", headers=BEARER) as http,
    ):
        await predictor.wait_for_log("version ready")
        reader, writer = await asyncio.open_connection("127.0.0.1", await predictor.port)
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: predictor\r\n\r\n")
        assert b"200 OK" in await reader.read(65_536)
        async with http.post("/v1/completions", json=body) as answer:
            await answer.content.readline()
            rest = asyncio.create_task(answer.read())
            signal.raise_signal(signal.SIGTERM)
            assert await reader.read() == b""
            assert not rest.done()
            assert (await rest).endswith(b"data: [DONE]\n\n")
        writer.close()
        assert await predictor.ended() == 0


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


async def test_a_startup_model_is_served_under_the_version_of_its_manifest(
    tmp_path: Path, first_model: Path, graphs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As mounted by KServe, with a folder name unrelated to the version."""
    mounted, failure = tmp_path / "mnt" / "models", tmp_path / "failure"
    shutil.copytree(first_model, mounted)
    shutil.copytree(graphs, tmp_path / "cache" / "graphs")
    settings = {
        "startup_models": (mounted,),
        "models_root": mounted,
        "max_versions": 1,
        "failure_file": failure,
    }
    async with serving(tmp_path, caplog, **settings) as predictor:
        await predictor.wait_for_log("version ready")
        async with (
            aiohttp.ClientSession(headers=BEARER) as http,
            http.get(f"http://127.0.0.1:{await predictor.port}/v1/models") as answer,
        ):
            assert [model["id"] for model in (await answer.json())["data"]] == ["tiny-1"]
    assert not failure.exists()


async def test_a_failed_startup_model_ends_the_process_with_the_reason(
    tmp_path: Path, first_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, failure = tmp_path / "broken", tmp_path / "failure"
    shutil.copytree(first_model, broken)
    (broken / "tokenizer.json").write_text("{}")
    async with serving(
        tmp_path, caplog, startup_models=(broken,), failure_file=failure
    ) as predictor:
        assert await predictor.ended() == 1
    reason = failure.read_text()
    assert reason.startswith("tiny-1: ")
    assert {"manifest.json", "tokenizer.json"} <= set(re.findall(r"[a-z.]+", reason))


async def test_without_a_failure_file_the_process_stays_not_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, caplog, startup_models=(tmp_path / "nowhere",)) as predictor:
        await predictor.wait_for_log("load failed")
        assert await predictor.status("/v2/health/ready") == 503


def test_sigterm_stops_the_process_before_its_models_are_loaded(
    tmp_path: Path, first_model: Path
) -> None:
    failure = tmp_path / "failure"
    process = start(
        tmp_path, STARTUP_MODELS=json.dumps([str(first_model)]), FAILURE_FILE=str(failure)
    )
    wait_for(process, "listening")
    stop(process)
    assert not failure.exists()
