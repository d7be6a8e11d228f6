"""The URL is printed once a version is ready."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from infra.run.embedded import readiness
from infra.run.embedded.layout import Layout
from infra.run.embedded.readiness import wait_for_model
from infra.run.supervision.child import ChildFailedError
from tests.support.errors import refused

LOADING = [{"name": "m-0", "state": "LOADING", "reason": ""}]
KEY = "a-key-for-tests-only"
READY = [{"name": "m-0", "state": "READY", "reason": ""}]
BROKEN = [{"name": "m-0", "state": "UNAVAILABLE", "reason": "config.json is missing"}]


class Index(http.server.BaseHTTPRequestHandler):
    """Server that returns lists in order and then repeats the last list."""

    answers: ClassVar[list[list[dict[str, str]]]] = []

    def do_POST(self) -> None:
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.send_error(401)
            return
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Suppress the request log."""


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def layout_at(url: str, state: Path, vllm_python: Path | None = None) -> Layout:
    """Return the layout of a run whose model server is at the URL."""
    (state / "model-server.key").write_text(KEY)
    return Layout(state, {"predictor": int(url.rpartition(":")[2])}, vllm_python)


async def test_wait_lasts_until_a_version_is_ready(url: str, tmp_path: Path) -> None:
    Index.answers = [[], LOADING, READY]
    await wait_for_model(layout_at(url, tmp_path), lambda *_: None)
    assert Index.answers == [READY]


async def test_failed_load_ends_the_wait_with_its_reason(url: str, tmp_path: Path) -> None:
    Index.answers = [LOADING, BROKEN]
    with refused(ChildFailedError, field="m-0", reason="DAMAGED") as caught:
        await wait_for_model(layout_at(url, tmp_path), lambda *_: None)
    assert BROKEN[0]["reason"] in caught.value.text


@pytest.mark.parametrize("converts", [True, False])
async def test_conversion_is_mentioned_only_if_needed(
    url: str, converts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "SAY_AFTER_SECONDS", -1.0)
    Index.answers = [LOADING, READY]
    lines: list[str] = []
    layout = layout_at(url, tmp_path)
    if not converts:
        (layout.predictor / "graphs" / "a").mkdir(parents=True)
    await wait_for_model(layout, lambda _, text: lines.append(text))
    (line,) = lines
    assert ("convert" in line) is converts


async def test_wait_for_vllm_is_reported_again(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "SAY_AFTER_SECONDS", -1.0)
    monkeypatch.setattr(readiness, "SAY_EVERY_SECONDS", 0.0)
    Index.answers = [LOADING, LOADING, READY]
    lines: list[str] = []
    layout = layout_at(url, tmp_path, tmp_path / "python")
    await wait_for_model(layout, lambda _, text: lines.append(text))
    assert len(lines) == 2
    assert all("vLLM" in line for line in lines)
