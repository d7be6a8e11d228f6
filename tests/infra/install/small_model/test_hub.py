"""MODEL=owner/name: local copies are used, and hub failures are reported in bounded time."""

import errno
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from infra.install.small_model import hub
from infra.install.small_model.errors import ModelError
from infra.install.small_model.hub import REQUIRED_FILES, from_hub, missing_files
from tests.support.errors import refused

ID = "Qwen/Qwen3-0.6B"
WAYS_OUT = (
    "MODEL=/path/to/Qwen3-0.6B",
    *REQUIRED_FILES,
    "*.safetensors",
    "HF_HOME=/path/to/huggingface",
)


@contextmanager
def not_had(reason: str, *named: str, field: str = "MODEL") -> Iterator[None]:
    """Check an error with this reason that names the model, the words and both alternatives."""
    with refused(ModelError, field=field, reason=reason) as caught:
        yield
    for word in (f"MODEL={ID}:", *named, *WAYS_OUT):
        assert word in caught.value.text


class Heard:
    """Recorder of messages and their times."""

    def __init__(self) -> None:
        self.began, self.lines, self.seconds = time.monotonic(), list[str](), list[float]()

    def __call__(self, text: str) -> None:
        self.lines.append(text)
        self.seconds.append(time.monotonic() - self.began)


class StandIn(ThreadingHTTPServer):
    """Fake hub on loopback that responds with a fixed status."""

    def __init__(self, status: int) -> None:
        asked: list[str] = []

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Suppress the request log."""

            do_HEAD = do_GET

        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.asked, self.url = (
            status,
            asked,
            f"http://127.0.0.1:{self.server_address[1]}",
        )


@pytest.fixture(autouse=True)
def nothing_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    server = StandIn(request.param)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def copy_in(cache: Path, *, whole: bool = True) -> Path:
    """Create a download in the layout of the hub's client."""
    repo = cache / "models--Qwen--Qwen3-0.6B"
    folder = repo / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    if whole:
        (folder / "model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("place", ["cache/hub", "home/hub"])
def test_local_copy_is_used_without_a_request(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, heard = copy_in(tmp_path / place), Heard()
    monkeypatch.setattr(hub, "_check_availability", lambda *_: pytest.fail("the hub was asked"))
    assert from_hub(ID, heard) == folder
    assert str(folder) in heard.lines[-1]


@pytest.mark.parametrize("stand_in", [404], indirect=True)
def test_incomplete_copy_is_ignored(tmp_path: Path, stand_in: StandIn) -> None:
    copy_in(tmp_path / "cache" / "hub", whole=False)
    with not_had("UNKNOWN", "404"):
        from_hub(ID, Heard())
    assert stand_in.asked == [f"/api/models/{ID}"]


@pytest.mark.parametrize("stand_in", [401, 404], indirect=True)
def test_rejected_model_is_reported_immediately(stand_in: StandIn) -> None:
    with not_had("UNKNOWN", stand_in.url, str(stand_in.status), "HF_TOKEN"):
        from_hub(ID, Heard())
    assert len(stand_in.asked) == 1


@pytest.mark.parametrize("stand_in", [503], indirect=True)
def test_hub_with_server_error_is_retried_once(stand_in: StandIn) -> None:
    with not_had("UNREACHABLE", stand_in.url, "503"):
        from_hub(ID, Heard())
    assert len(stand_in.asked) == 2


def test_silent_hub_is_abandoned_after_two_announced_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = Heard()
    # The server accepts connections and never responds.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(
            "huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        with not_had("UNREACHABLE", "0.3 s"):
            from_hub(ID, heard, try_seconds=0.3)
    assert heard.lines[0].startswith(f"MODEL={ID}: ")
    assert [re.findall(r"\d+", line)[-2:] for line in heard.lines[1:]] == [["1", "2"], ["2", "2"]]


def test_unavailable_hub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with not_had("UNREACHABLE", "http://127.0.0.1:9", os.strerror(errno.ECONNREFUSED)):
        from_hub(ID, Heard())


@pytest.mark.parametrize("stand_in", [200], indirect=True)
def test_interrupted_download_is_reported_without_traceback(stand_in: StandIn) -> None:
    with not_had("STOPPED"):
        from_hub(ID, Heard())


def test_missing_hub_client_is_reported_with_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(_: str) -> None:
        """Simulate an environment without the package."""

    monkeypatch.setattr(hub, "find_spec", find_nothing)
    with not_had("MISSING", "uv pip install huggingface_hub", field="huggingface_hub"):
        from_hub(ID, Heard())


def test_missing_shard_of_the_index_is_reported(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "a.safetensors"):
        (tmp_path / name).write_text("{}")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert missing_files(tmp_path) == ["b.safetensors"]
