"""Two generators with the real predictor and tiny models, to confirm the fake model server."""

import asyncio
import time
from pathlib import Path

import pytest
from thumbwheel.chat.v1 import chat_pb2

from services.predictor.metrics import VersionMetrics
from tests.services.generator.service import generator_service, text_of, until_ready
from tests.services.predictor.conftest import (
    KEY,
    Predictor,
    StartPredictor,
    cache_directory,
    first_model,
    second_model,
    start_predictor,
)
from tests.services.predictor.model_directories import SPECIAL
from tests.services.predictor.streams import metrics, open_stream

UNLOAD_REFUSED = 'endpoint="/v2/repository/models/{version}/unload",status="409"'
__all__ = ["cache_directory", "first_model", "second_model", "start_predictor"]


async def until_versions(predictor: Predictor, names: set[str]) -> None:
    async with asyncio.timeout(20):
        while {entry.name for entry in predictor.repository.index()} != names:
            await asyncio.sleep(0.02)


async def until_refused(predictor: Predictor) -> None:
    """Wait until an unload was rejected because the version is in use."""
    async with asyncio.timeout(20):
        while UNLOAD_REFUSED not in (await metrics(predictor))[1]:
            await asyncio.sleep(0.02)


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow down the engine so that an answer of 1,900 tokens takes 20 s instead of 1 s.

    The stream then runs until the test closes it, also on a fast machine.
    """
    monkeypatch.setattr(VersionMetrics, "stepped", lambda *_: time.sleep(0.01))


@pytest.mark.usefixtures("slow_steps")
async def test_two_generators_load_a_version_once_and_do_not_unload_a_version_in_use(
    start_predictor: StartPredictor,
    first_model: Path,
    second_model: Path,
    tmp_path: Path,
    database: str,
) -> None:
    predictor = await start_predictor()
    port = int(predictor.url.rsplit(":", 1)[1])
    settings = {
        "database_url": database,
        "stable_directory": first_model,
        "unload_grace_seconds": 0.3,
        "model_server_key": KEY,
    }
    async with (
        generator_service(tmp_path, port, **settings) as here,
        generator_service(tmp_path, port, **settings) as there,
    ):
        for stubs in (here, there):
            await until_ready(stubs, "tiny-1")
        await asyncio.gather(*(stubs.start("tiny-2", second_model) for stubs in (here, there)))
        _, counted = await metrics(predictor)
        for version in ("tiny-1", "tiny-2"):
            assert f'thumbwheel_predictor_load_seconds_count{{version="{version}"}} 1.0' in counted
        stream = await open_stream(predictor, "tiny-1")
        await there.promote("tiny-2")
        await until_refused(predictor)
        assert {entry.name: entry.state for entry in predictor.repository.index()}[
            "tiny-1"
        ] == "READY"
        stream.close()
        await until_versions(predictor, {"tiny-2"})
        assert (await here.state()).stable.version == "tiny-2"


async def test_the_real_predictor_returns_every_sampled_token(
    start_predictor: StartPredictor, first_model: Path, tmp_path: Path
) -> None:
    predictor = await start_predictor()
    port = int(predictor.url.rsplit(":", 1)[1])
    async with generator_service(
        tmp_path, port, stable_directory=first_model, model_server_key=KEY
    ) as stubs:
        await until_ready(stubs, "tiny-1")
        events = await stubs.generate("hello", sampling=chat_pb2.SamplingOverrides(max_tokens=30))
    finished = events[-1].finished
    assert len(finished.sample.token_ids) == finished.usage.completion_tokens
    # The stream leaves special tokens out of the text; /detokenize spells them.
    visible = [token for token in finished.sample.token_ids if token >= len(SPECIAL)]
    _, decoded = await predictor.post("/detokenize", {"model": "tiny-1", "tokens": visible})
    assert decoded["prompt"].startswith(text_of(events))
    assert all(log_prob <= 0 for log_prob in finished.sample.log_probs)
