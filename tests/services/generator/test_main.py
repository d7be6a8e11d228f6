"""Wiring of the generator: the first start, and connections to model servers.

The first start takes the stable version of the settings, or fails with an error that names the
missing file.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import UnavailableError
from services.generator.__main__ import first_rollout, open_http
from services.generator.answering.engine import Timeouts
from services.generator.answering.model_server import HttpModelServer
from services.generator.rollout.canary import ManifestError
from services.generator.rollout.current_rollout import NOTHING_STORED, UnusableStoreError
from services.generator.rollout.rollout import Deployment
from services.generator.store.store import RolloutFile
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import model_directory
from tests.support.errors import refused

BODY = b'{"messages": []}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def test_the_first_stable_version_comes_from_the_manifest_and_is_kept(
    tmp_path: Path,
) -> None:
    file, directory = tmp_path / "rollout.json", model_directory(tmp_path, "v1")
    stored = await first_rollout(RolloutFile(file), directory)
    assert stored.rollout.stable == Deployment("v1", str(directory))
    assert await first_rollout(RolloutFile(file), model_directory(tmp_path, "v9")) == stored


async def test_without_a_stable_directory_nothing_is_stored(tmp_path: Path) -> None:
    assert await first_rollout(RolloutFile(tmp_path / "rollout.json"), None) == NOTHING_STORED
    assert not (tmp_path / "rollout.json").exists()


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        (None, "manifest.json", "MISSING"),
        ("", "manifest.json", "MALFORMED"),
        ("[]", "version", "MISSING"),
        ("{}", "version", "MISSING"),
        ('{"version": ""}', "version", "MISSING"),
        ('{"version": "external.rival"}', "version", "OUT_OF_RANGE"),
    ],
)
async def test_a_directory_without_a_finished_model_is_refused(
    tmp_path: Path, content: str | None, field: str, reason: str
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with refused(ManifestError, reason=reason) as caught:
        await first_rollout(RolloutFile(tmp_path / "rollout.json"), tmp_path)
    assert Path(caught.value.field).name == field


async def test_an_unreadable_rollout_file_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "rollout.json").write_text("{")
    with refused(UnusableStoreError, field=str(tmp_path / "rollout.json"), reason="MALFORMED"):
        await first_rollout(RolloutFile(tmp_path / "rollout.json"), model_directory(tmp_path, "v1"))


async def test_a_used_connection_is_not_reused() -> None:
    handlers: list[asyncio.Task[Any] | None] = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Announce keep-alive, and close the connection when the next request arrives."""
        handlers.append(asyncio.current_task())
        await reader.readuntil(BODY)
        writer.write(ANSWER)
        await reader.read(1)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
    async with server:
        async with open_http(5.0, "") as http:
            for _ in range(3):
                async with http.post(url, json={"messages": []}) as response:
                    assert await response.json() == {}
        await asyncio.gather(*[task for task in handlers if task])
    assert len(handlers) == 3


async def test_a_model_server_with_another_key_is_reported_by_a_reason_of_its_own() -> None:
    async with (
        predictor_server(FakePredictor(key="a-key-for-tests-only")) as port,
        open_http(5.0, "a-key-of-another-system") as http,
    ):
        server = HttpModelServer(http, f"http://127.0.0.1:{port}", Timeouts(5, 5, 5), 5)
        for call in (server.index, lambda: server.load("v1", "/v1"), lambda: server.unload("v1")):
            with refused(UnavailableError, reason="MODEL_SERVER_REFUSES"):
                await call()
