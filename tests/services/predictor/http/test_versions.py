"""Loading and unloading during streams; the tests count tokens instead of time."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from services.predictor.engine.engine import AdmissionLimits
from services.predictor.errors import (
    InvalidRequestError,
    ModelRefusedError,
    PredictorError,
    UnavailableError,
    VersionInUseError,
)
from tests.services.predictor.conftest import OPTIONS, Predictor, StartPredictor, load_first
from tests.services.predictor.model_directories import write_manifest
from tests.services.predictor.streams import LONG, metrics, open_stream
from tests.support.errors import refused


@pytest.fixture
async def predictor(start_predictor: StartPredictor, first_model: Path) -> Predictor:
    """Return a predictor with tiny-1 for a single test."""
    started = await start_predictor()
    await load_first(started, first_model)
    return started


# Tokens of a stream that ends by itself within some hundred calls.
ENDS = 800


async def rest(response: aiohttp.ClientResponse) -> str:
    """Return the remaining body of a stream as text."""
    return (await response.read()).decode()


async def settled(predictor: Predictor, version: str) -> int:
    """Return the number of generated tokens once no generation is active."""
    engine = predictor.repository.get(version).engine
    while engine.active:
        await asyncio.sleep(0.005)
    return engine.generated_tokens


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_disconnect_ends_a_streamed_generation(predictor: Predictor, path: str) -> None:
    body = {**LONG, "model": "tiny-1", "stream": True}
    if "chat" in path:
        body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
    response = await predictor.client.post(predictor.url + path, json=body)
    await response.content.readline()
    response.close()
    assert 0 < await settled(predictor, "tiny-1") < 1900
    _, text = await metrics(predictor)
    assert f'requests_total{{endpoint="{path}",status="499",version="tiny-1"}} 1.0' in text


async def test_a_disconnect_ends_a_complete_generation_too(predictor: Predictor) -> None:
    request = asyncio.create_task(predictor.post("/v1/completions", {**LONG, "model": "tiny-1"}))
    engine = predictor.repository.get("tiny-1").engine
    while not engine.generated_tokens:
        await asyncio.sleep(0.001)
    request.cancel()
    with suppress(asyncio.CancelledError):
        await request
    assert await settled(predictor, "tiny-1") < 1900


async def test_two_versions_answer_concurrently_with_their_own_weights(
    predictor: Predictor, second_model: Path
) -> None:
    await predictor.load("tiny-2", second_model)
    body = {"prompt": "abc", "max_tokens": 16, "ignore_eos": True, "temperature": 0}
    names = ["tiny-1", "tiny-2"] * 3
    replies = await asyncio.gather(
        *(predictor.post("/v1/completions", {**body, "model": name}) for name in names)
    )
    texts = [reply["choices"][0]["text"] for _, reply in replies]
    assert texts[0] != texts[1]
    assert texts == texts[:2] * 3
    _, listed = await predictor.get("/v1/models")
    assert {model["id"] for model in listed["data"]} == {"tiny-1", "tiny-2"}


async def test_loading_a_version_does_not_change_a_running_stream(
    predictor: Predictor, second_model: Path
) -> None:
    _, alone = await predictor.post(
        "/v1/completions", {**LONG, "model": "tiny-1", "max_tokens": 600}
    )
    stream = await open_stream(predictor, "tiny-1", max_tokens=600)
    status, _ = await predictor.load("tiny-2", second_model)
    assert status == 200
    body = await rest(stream)
    chunks = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert alone["choices"][0]["text"].endswith(text)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert body.endswith("data: [DONE]\n\n")


async def test_unloading_finishes_running_streams_and_refuses_new_ones(
    predictor: Predictor, refusals: list[PredictorError]
) -> None:
    stream = await open_stream(predictor, "tiny-1", max_tokens=ENDS)
    unloading = asyncio.create_task(predictor.post("/v2/repository/models/tiny-1/unload", {}))
    while predictor.repository.index()[0].state == "READY":
        await asyncio.sleep(0)
    status, answer = await predictor.post("/v1/completions", {**LONG, "model": "tiny-1"})
    assert (status, answer["error"]["param"]) == (503, "model")
    assert refusals[-1].reason == "STOPPED"
    assert (await rest(stream)).endswith("data: [DONE]\n\n")
    assert (await unloading)[0] == 200
    assert (await predictor.post("/v1/completions", {**LONG, "model": "tiny-1"}))[0] == 404
    assert await predictor.post("/v2/repository/index", {}) == (200, [])


async def test_an_only_idle_unload_is_refused_while_an_answer_runs(
    predictor: Predictor,
) -> None:
    only_idle = {"parameters": {"only_idle": True}}
    stream = await open_stream(predictor, "tiny-1", max_tokens=ENDS)
    status, answer = await predictor.post("/v2/repository/models/tiny-1/unload", only_idle)
    assert (status, answer["error"].split()[0]) == (409, "1")
    with refused(VersionInUseError, field="version"):
        await predictor.repository.unload("tiny-1", only_idle=True)
    assert predictor.repository.index()[0].state == "READY"
    assert (await rest(stream)).endswith("data: [DONE]\n\n")
    await settled(predictor, "tiny-1")
    assert (await predictor.post("/v2/repository/models/tiny-1/unload", only_idle))[0] == 200
    assert await predictor.post("/v2/repository/index", {}) == (200, [])


async def test_a_drain_timeout_ends_the_stream_with_an_error(
    start_predictor: StartPredictor, first_model: Path, refusals: list[PredictorError]
) -> None:
    predictor = await start_predictor(drain_seconds=0.0)
    await predictor.load("tiny-1", first_model)
    stream = await open_stream(predictor, "tiny-1")
    await predictor.post("/v2/repository/models/tiny-1/unload", {})
    body = await rest(stream)
    last = json.loads(body.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["error"]["type"], refusals[-1].reason) == ("unavailable", "STOPPED")
    assert "[DONE]" not in body


async def test_a_reloaded_version_is_not_converted_again(
    start_predictor: StartPredictor, first_model: Path, tmp_path: Path
) -> None:
    predictor = await start_predictor()
    for _ in range(2):
        assert (await predictor.load("tiny-1", first_model))[0] == 200
        assert (await predictor.load("tiny-1", first_model))[0] == 200
        assert (await predictor.post("/v2/repository/models/tiny-1/unload", {}))[0] == 200
    assert len(predictor.convert_calls) <= 1


async def test_the_index_has_the_reason_of_a_failure_and_a_repaired_model_loads(
    predictor: Predictor, first_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "tiny-3"
    broken.mkdir()
    for path in first_model.iterdir():
        if path.name != "manifest.json":
            (broken / path.name).write_bytes(path.read_bytes())
    status, answer = await predictor.load("tiny-3", broken)
    assert (status, "manifest.json" in answer["error"]) == (400, True)
    with refused(ModelRefusedError, field="manifest.json", reason="MISSING"):
        await predictor.repository.load("tiny-3", broken)
    _, index = await predictor.post("/v2/repository/index", {})
    assert [(entry["name"], entry["state"]) for entry in index] == [
        ("tiny-1", "READY"),
        ("tiny-3", "UNAVAILABLE"),
    ]
    assert "manifest.json" in index[1]["reason"]
    assert len((await predictor.post("/v2/repository/index", {"ready": True}))[1]) == 1
    assert (await predictor.get("/v2/models/tiny-3/ready"))[0] == 503
    write_manifest(broken, "tiny-3")
    assert (await predictor.load("tiny-3", broken))[0] == 200
    assert (await predictor.get("/v2/models/tiny-3/ready"))[0] == 200


async def test_versions_are_immutable_and_directories_are_checked(
    start_predictor: StartPredictor, first_model: Path, second_model: Path, tmp_path: Path
) -> None:
    predictor = await start_predictor(max_versions=1, models_root=first_model.parent)
    assert (await predictor.load("tiny-1", first_model))[0] == 200
    other = first_model.parent / "other"
    other.mkdir(exist_ok=True)
    for path in second_model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    write_manifest(other, "tiny-1")
    assert (await predictor.load("tiny-1", other))[0] == 409
    path = "parameters.directory"
    for name, directory, kind, field, reason in (
        ("tiny-2", second_model, ModelRefusedError, path, "OUT_OF_RANGE"),
        ("tiny-2", Path("models/tiny-2"), InvalidRequestError, path, "MALFORMED"),
        ("-rf", first_model, InvalidRequestError, "version", "MALFORMED"),
    ):
        status, answer = await predictor.load(name, directory)
        assert (status, field in answer["error"]) == (400, True)
        with refused(kind, field=field, reason=reason):
            await predictor.repository.load(name, directory)
    assert (await predictor.load("tiny-2", other))[0] == 503
    with refused(UnavailableError, reason="OVERLOADED", limit="1 versions"):
        await predictor.repository.load("tiny-2", other)


async def test_a_full_queue_refuses_requests_and_serves_waiting_ones(
    start_predictor: StartPredictor, first_model: Path
) -> None:
    predictor = await start_predictor(limits=AdmissionLimits(max_concurrent=1, max_waiting=1))
    await predictor.load("tiny-1", first_model)
    stream = await open_stream(predictor, "tiny-1")
    waiting = asyncio.create_task(
        predictor.post("/v1/completions", {**LONG, "model": "tiny-1", "max_tokens": 3})
    )
    engine = predictor.repository.get("tiny-1").engine
    while engine.active < 2:
        await asyncio.sleep(0)
    status, answer = await predictor.post("/v1/completions", {**LONG, "model": "tiny-1"})
    assert (status, answer["error"]["type"]) == (429, "overloaded")
    stream.close()
    status, reply = await waiting
    assert (status, reply["usage"]["completion_tokens"]) == (200, 3)


async def test_requests_beyond_the_cache_all_end_with_their_own_text(
    start_predictor: StartPredictor, first_model: Path
) -> None:
    predictor = await start_predictor(options=replace(OPTIONS, kv_blocks=12))
    await predictor.load("tiny-1", first_model)
    body = {**LONG, "model": "tiny-1", "max_tokens": 120}
    prompts = [letter * 60 for letter in "abcd"]
    alone = [
        await predictor.post("/v1/completions", {**body, "prompt": prompt}) for prompt in prompts
    ]
    together = await asyncio.gather(
        *(predictor.post("/v1/completions", {**body, "prompt": p}) for p in prompts)
    )
    for (_, one), (status, other) in zip(alone, together, strict=True):
        assert status == 200
        assert one["choices"][0]["text"] == other["choices"][0]["text"]


async def test_metrics_count_tokens_latencies_and_requests_by_version(predictor: Predictor) -> None:
    await predictor.post("/v1/completions", {**LONG, "model": "tiny-1", "max_tokens": 5})
    await predictor.post("/v1/completions", {**LONG, "model": "a stranger's words"})
    _, text = await metrics(predictor)
    for line in (
        'generated_tokens_total{version="tiny-1"} 5.0',
        'prompt_tokens_total{version="tiny-1"} 3.0',
        'time_to_first_token_seconds_count{version="tiny-1"} 1.0',
        'inter_token_seconds_count{version="tiny-1"} 4.0',
        'queue_seconds_count{version="tiny-1"} 1.0',
        'load_seconds_count{version="tiny-1"} 1.0',
        'requests_total{endpoint="/v1/completions",status="200",version="tiny-1"} 1.0',
        'requests_total{endpoint="/v1/completions",status="404",version=""} 1.0',
        'cache_usage_ratio{version="tiny-1"}',
    ):
        assert f"thumbwheel_predictor_{line}" in text
    assert "stranger" not in text
    await predictor.post("/v2/repository/models/tiny-1/unload", {})
    _, text = await metrics(predictor)
    assert 'running_requests{version="tiny-1"}' not in text


async def test_health_is_live_at_once_and_ready_after_the_start(predictor: Predictor) -> None:
    assert (await predictor.get("/health"))[0] == 200
    assert (await predictor.get("/v2/health/live"))[0] == 200
    assert (await predictor.get("/v2/health/ready"))[0] == 503
    predictor.readiness.ready = True
    assert (await predictor.get("/v2/health/ready"))[0] == 200
    assert (await predictor.get("/v2/models/unknown/ready"))[0] == 404
