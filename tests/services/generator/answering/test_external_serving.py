"""An external model that answers all users: its rollout, answers, refusals and repetition."""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2

from infra.run.supervision.ports import free_port
from services.chassis.errors import from_rpc
from services.generator.settings import GeneratorSettings
from services.generator.store.store import RolloutFile
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import (
    ask,
    error_of,
    generator_service,
    generator_settings,
    operate,
    text_of,
)

STABLE, OTHER, KEY = "external.rival", "external.other", "sk-key-of-the-test"


def endpoint(**fields: Any) -> FakePredictor:
    """Return an endpoint with two models."""
    return FakePredictor(**({"states": {"m1": "READY", "m2": "READY"}, "key": KEY} | fields))


def external(root: Path, port: int) -> dict[str, Any]:
    """Return settings of serving external, with the model `rival` stable."""
    (root / "key").write_text(KEY)
    common = {
        "url": f"http://127.0.0.1:{port}/v1",
        "key_file": root / "key",
        "developer": "Example",
        "licence": "proprietary",
    }
    models = {"rival": {**common, "model": "m1"}, "other": {**common, "model": "m2"}}
    return {"serving": "external", "external_stable": "rival", "external_models": models}


def tokens(kind: str) -> float:
    labels = {"version": STABLE, "kind": kind}
    return REGISTRY.get_sample_value("thumbwheel_tokens_total", labels) or 0.0


async def test_the_external_model_is_stable_and_answers_all_users(tmp_path: Path) -> None:
    fake, before = endpoint(), tokens("completion")
    sampling = chat_pb2.SamplingOverrides(stop=["END"], max_tokens=9)
    async with (
        predictor_server(fake) as port,
        generator_service(tmp_path, 0, **external(tmp_path, port)) as stubs,
    ):
        state = await stubs.state()
        first, *deltas, last = await stubs.generate(sampling=sampling)
        pinned = await stubs.generate(pinned_version=OTHER)
    # No wait: the endpoint is not asked before the first answer.
    assert (state.stable.version, state.stable.share) == (STABLE, 1.0)
    assert state.stable.state == generator_pb2.VERSION_STATE_READY
    selected = first.selected
    assert (selected.model_version, selected.arm) == (STABLE, "stable")
    assert selected.assignment_probability == 1.0
    assert text_of(deltas) == "Hello there."
    assert last.finished.usage == chat_pb2.Usage(prompt_tokens=7, completion_tokens=3)
    assert tokens("completion") == before + 3
    assert (fake.requests[0]["model"], fake.requests[0]["stop"]) == ("m1", ["END"])
    assert (pinned[0].selected.model_version, fake.requests[1]["model"]) == (OTHER, "m2")


async def test_the_stored_rollout_of_own_versions_is_kept(tmp_path: Path) -> None:
    own = FakePredictor()
    async with predictor_server(own) as port, generator_service(tmp_path, port) as stubs:
        assert (await stubs.state()).stable.version == "v1"
    file = tmp_path / "state" / "rollout.json"
    before = file.read_bytes()
    async with (
        predictor_server(endpoint()) as port,
        generator_service(tmp_path, 0, **external(tmp_path, port)) as stubs,
    ):
        await stubs.generate()
    assert file.read_bytes() == before


async def test_changes_of_the_rollout_are_refused_with_the_reason(tmp_path: Path) -> None:
    version = "v2"
    requests = {
        "StartCanary": generator_pb2.StartCanaryRequest(version=version, directory="/m", share=0.1),
        "RenewCanary": generator_pb2.RenewCanaryRequest(version=version),
        "PromoteCanary": generator_pb2.PromoteCanaryRequest(version=version, reason="better"),
        "RollBackCanary": generator_pb2.RollBackCanaryRequest(version=version, reason="worse"),
    }
    async with generator_service(tmp_path, 0, **external(tmp_path, free_port())) as stubs:
        for method, request in requests.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(stubs.rollout, method)(request, timeout=5)
            error = from_rpc(caught.value, "generator")
            assert (error.code, error.reason, error.field) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                "EXTERNAL_SERVING",
                "serving",
            )
        assert (await stubs.state()).stable.version == STABLE
    records = await RolloutFile(tmp_path / "state" / "rollout.json").audit_records(0)
    assert [(record["object"], record["outcome"]) for record in records] == [
        (version, "refused: EXTERNAL_SERVING")
    ] * len(requests)


@pytest.mark.parametrize(
    "words",
    [("halt", "--reason", "x"), ("resume",), ("restore", "--version", "v1", "--reason", "x")],
)
async def test_commands_that_change_the_rollout_are_refused(
    tmp_path: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = generator_settings(tmp_path, 0, **external(tmp_path, free_port()))
    assert await operate(settings, *words, "--by", "ops") == 2
    assert "external model" in capsys.readouterr().err


async def test_the_command_rollout_shows_the_external_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = generator_settings(tmp_path, 0, **external(tmp_path, free_port()))
    assert await operate(settings, "rollout", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stable"]["version"] == STABLE


@pytest.mark.parametrize(
    ("script", "stop", "text"),
    [
        (["one E", "N", "D two"], ["END"], "one "),
        (["one END", " two"], ["two", "END"], "one "),
        (["one E", "N", "X two"], ["END"], "one ENX two"),
        (["one E", "N"], ["END"], "one EN"),
    ],
)
async def test_stop_texts_end_an_answer_of_an_endpoint_without_them(
    tmp_path: Path, script: list[str], stop: list[str], text: str
) -> None:
    fake = endpoint(script=script)
    settings = external(tmp_path, 1)
    settings["external_models"]["rival"]["parameters"] = ["max_tokens", "stream_options"]
    async with predictor_server(fake) as port:
        settings["external_models"]["rival"]["url"] = f"http://127.0.0.1:{port}/v1"
        async with generator_service(tmp_path, 0, **settings) as stubs:
            events = await stubs.generate(sampling=chat_pb2.SamplingOverrides(stop=stop))
    assert text_of(events) == text
    assert events[-1].finished.finish_reason == chat_pb2.FINISH_REASON_STOP
    assert events[-1].finished.usage.completion_tokens > 0
    assert "stop" not in fake.requests[0]


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_temporary_failure_before_the_answer_is_repeated(
    tmp_path: Path, status: int
) -> None:
    fake = endpoint(refusal=(status, {}), refusals=1, retry_after="")
    async with (
        predictor_server(fake) as port,
        generator_service(tmp_path, 0, **external(tmp_path, port)) as stubs,
    ):
        assert text_of(await stubs.generate()) == "Hello there."
    assert len(fake.requests) == 2
    assert fake.requests[0] == fake.requests[1]


async def test_an_answer_that_has_begun_is_not_repeated(tmp_path: Path) -> None:
    fake = endpoint(cut_after=1)
    async with (
        predictor_server(fake) as port,
        generator_service(tmp_path, 0, **external(tmp_path, port)) as stubs,
    ):
        assert (await error_of(stubs)).reason == "EXTERNAL_MODEL_LOST"
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "PROMPT is too long", "code": "context_length_exceeded"}},
        {
            "object": "error",
            "message": "This model's maximum context length is 8192 tokens: PROMPT",
        },
    ],
)
async def test_a_context_that_is_too_long_is_the_callers_fault(
    tmp_path: Path, body: dict[str, Any]
) -> None:
    fake = endpoint(refusal=(400, body))
    async with (
        predictor_server(fake) as port,
        generator_service(tmp_path, 0, **external(tmp_path, port)) as stubs,
    ):
        error = await error_of(stubs)
    assert (error.code, error.reason, error.field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "CONTEXT_LENGTH_EXCEEDED",
        "messages",
    )
    assert "PROMPT" not in error.text
    assert len(fake.requests) == 1


async def test_an_unreachable_endpoint_does_not_end_the_service(tmp_path: Path) -> None:
    port = free_port()
    async with generator_service(tmp_path, 0, **external(tmp_path, port)) as stubs:
        assert (await error_of(stubs)).reason == "EXTERNAL_MODEL_UNREACHABLE"
        async with predictor_server(endpoint(), port):
            assert text_of(await stubs.generate()) == "Hello there."
            # Cancelled without a trace in the service.
            call = stubs.generator.Generate(ask(), timeout=20)
            call.cancel()
            assert text_of(await stubs.generate()) == "Hello there."


MODEL = {"url": "https://a.example/v1", "model": "m", "developer": "d", "licence": "l"}


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({}, "external_models"),
        ({"external_models": {"a": MODEL, "b": MODEL}}, "external_stable"),
        ({"external_models": {"a": MODEL}, "external_stable": "b"}, "external_stable"),
        ({"external_models": {"a": MODEL}, "predictor_url": "http://p"}, "predictor_url"),
        ({"external_models": {"a": MODEL}, "model_port": 1}, "model_port"),
        ({"external_models": {"a": MODEL}, "serving": "predictor", "external_stable": "a"}, ""),
    ],
)
def test_contradictory_settings_are_refused(settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GeneratorSettings.model_validate({"serving": "external"} | settings)
    (found,) = caught.value.errors()
    assert found["msg"].startswith(setting or "external_stable")


def test_the_only_external_model_needs_no_name() -> None:
    values = {"serving": "external", "external_models": {"only": MODEL}}
    assert GeneratorSettings.model_validate(values).stable_external() == "external.only"
