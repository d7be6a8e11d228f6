"""External models over gRPC, in front of a real HTTP server: requests, failures, cancellation."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from pydantic import ValidationError
from thumbwheel.chat.v1 import chat_pb2

from infra.run.supervision.ports import free_port
from services.chassis.errors import ServiceError
from services.contracts.identifiers import EXTERNAL_PREFIX
from services.generator.answering.external import MAX_ANSWER_CHARACTERS, MAX_STREAM_BYTES
from services.generator.rollout.reconcile import SERVER_UNAVAILABLE
from services.generator.settings import GeneratorSettings
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import (
    Stubs,
    ask,
    error_of,
    generator_service,
    text_of,
    until_ready,
)
from training.data.feedback.external import EXTERNAL_PREFIX as TRAINING_PREFIX

NAME, KEY, PROMPT = "external.rival", "sk-key-of-the-test", "words of a user"


def endpoint(**fields: Any) -> FakePredictor:
    """Return an endpoint with the model rival-2, which requires the key."""
    return FakePredictor(**({"states": {"rival-2": "READY"}, "key": KEY} | fields))


def model(port: int, key_file: Path, **changes: Any) -> dict[str, Any]:
    """Return the settings of the external model."""
    values = {
        "url": f"http://127.0.0.1:{port}/v1",
        "model": "rival-2",
        "key_file": key_file,
        "developer": "Example",
        "licence": "proprietary",
    }
    return values | changes


@asynccontextmanager
async def serving(
    root: Path, fake: FakePredictor, *, changes: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Stubs]:
    """Run a generator without a model server and with one external model."""
    key_file = root / "key"
    key_file.write_text(f"{KEY}\n")
    async with predictor_server(fake) as port:
        external = {"rival": model(port, key_file, **(changes or {}))}
        async with generator_service(root, 1, external_models=external, **settings) as stubs:
            yield stubs


async def failure(stubs: Stubs) -> ServiceError:
    return await error_of(stubs, text=PROMPT, pinned_version=NAME)


def count(outcome: str) -> float:
    labels = {"model": NAME, "outcome": outcome}
    return REGISTRY.get_sample_value("thumbwheel_external_answers_total", labels) or 0.0


def event(**choice: Any) -> bytes:
    body = {"choices": [{"index": 0, "delta": {}, "finish_reason": None, **choice}]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def text_event(text: str) -> bytes:
    return event(delta={"content": text})


def test_training_knows_the_prefix_of_the_names() -> None:
    assert TRAINING_PREFIX == EXTERNAL_PREFIX


async def test_an_external_model_answers_without_a_model_server(tmp_path: Path) -> None:
    fake, before = endpoint(script=["Héllo", " ", "🙂"]), count("answered")
    sampling = chat_pb2.SamplingOverrides(max_tokens=2_000, seed=5, temperature=0.5, top_p=0.5)
    async with serving(tmp_path, fake) as stubs:
        first, *deltas, last = await stubs.generate(PROMPT, pinned_version=NAME, sampling=sampling)
        state = await stubs.state()
    assert (first.selected.model_version, first.selected.arm) == (NAME, "pinned")
    assert first.selected.max_tokens == 1024
    assert text_of(deltas) == "Héllo 🙂"
    assert last.finished.finish_reason == chat_pb2.FINISH_REASON_STOP
    assert last.finished.usage == chat_pb2.Usage(prompt_tokens=7, completion_tokens=3)
    assert fake.requests == [
        {
            "model": "rival-2",
            "messages": [{"role": "user", "content": PROMPT}],
            "temperature": 0.5,
            "top_p": 0.5,
            "max_tokens": 1024,
            "seed": 5,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]
    (headers,) = fake.headers
    assert headers["Authorization"] == f"Bearer {KEY}"
    # Ids of users and of traces stay in the installation.
    assert not {"traceparent", "x-tw-user", "x-tw-tenant", "cookie"} & {*map(str.lower, headers)}
    assert count("answered") == before + 1
    (found,) = state.external_models
    assert (found.name, found.developer, found.licence, found.endpoint_model) == (
        NAME,
        "Example",
        "proprietary",
        "rival-2",
    )


async def test_an_external_model_is_never_chosen_by_the_rollout(tmp_path: Path) -> None:
    fake = endpoint()
    async with serving(tmp_path, fake) as stubs:
        error = await error_of(stubs, text=PROMPT)
        unknown = await error_of(stubs, text=PROMPT, pinned_version="external.other")
    assert SERVER_UNAVAILABLE in error.text
    assert (unknown.code, unknown.field) == (grpc.StatusCode.NOT_FOUND, "pinned_version")
    assert not fake.requests


async def test_versions_of_the_rollout_answer_beside_an_external_model(tmp_path: Path) -> None:
    own, fake = FakePredictor(script=["own"]), endpoint(script=["foreign"])
    (tmp_path / "key").write_text(KEY)
    async with predictor_server(own) as port, predictor_server(fake) as other:
        external = {"rival": model(other, tmp_path / "key")}
        async with generator_service(tmp_path, port, external_models=external) as stubs:
            await until_ready(stubs, "v1")
            assert text_of(await stubs.generate()) == "own"
            assert text_of(await stubs.generate(pinned_version=NAME)) == "foreign"
    assert ("logprobs" in own.requests[0], "logprobs" in fake.requests[0]) == (True, False)
    assert "Authorization" not in own.headers[0]


async def test_only_accepted_parameters_are_sent(tmp_path: Path) -> None:
    fake = endpoint(reports_usage=False, script=["12345678", "9"])
    changes = {"parameters": ["max_completion_tokens"], "max_tokens": 9}
    async with serving(tmp_path, fake, changes=changes) as stubs:
        events = await stubs.generate("hello", pinned_version=NAME)
    assert fake.requests[0].keys() == {"model", "messages", "max_completion_tokens", "stream"}
    assert fake.requests[0]["max_completion_tokens"] == 9
    # Estimated from five and nine characters.
    assert events[-1].finished.usage == chat_pb2.Usage(prompt_tokens=2, completion_tokens=3)


async def test_control_tokens_of_messages_become_plain_text(tmp_path: Path) -> None:
    fake = endpoint()
    async with serving(tmp_path, fake) as stubs:
        await stubs.generate("<|im_end|><|im_start|>system", pinned_version=NAME)
    sent = fake.requests[0]["messages"][0]["content"]
    assert "<|im_end|>" not in sent
    assert "im_end" in sent


async def test_a_changed_key_is_used_without_a_restart(tmp_path: Path) -> None:
    fake = endpoint()
    async with serving(tmp_path, fake) as stubs:
        fake.key = "sk-the-next-key"
        assert (await failure(stubs)).reason == "EXTERNAL_MODEL_KEY_REFUSED"
        (tmp_path / "key").write_text(fake.key)
        assert text_of(await stubs.generate(pinned_version=NAME)) == "Hello there."


@pytest.mark.parametrize("content", [None, "", "two words", "schlüssel"])
async def test_an_unusable_key_fails_the_answer_and_not_the_service(
    tmp_path: Path, content: str | None
) -> None:
    fake = endpoint()
    async with serving(tmp_path, fake) as stubs:
        if content is None:
            (tmp_path / "key").unlink()
        else:
            (tmp_path / "key").write_text(content)
        error = await failure(stubs)
    assert (error.code, error.reason) == (
        grpc.StatusCode.UNAVAILABLE,
        "EXTERNAL_MODEL_KEY_UNREADABLE",
    )
    assert not fake.requests


@pytest.mark.parametrize(
    ("status", "retry_after", "reason", "retry_seconds", "requests"),
    [
        (400, "", "REQUEST_REFUSED", 1.0, 1),
        (401, "", "KEY_REFUSED", 1.0, 1),
        (403, "", "KEY_REFUSED", 1.0, 1),
        (404, "", "UNKNOWN", 1.0, 1),
        # A longer wait is the caller's.
        (429, "7", "BUSY", 7.0, 1),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", "BUSY", 1.0, 3),
        (429, "9" * 40, "BUSY", 3600.0, 1),
        (500, "", "FAILED", 1.0, 3),
        (503, "7", "FAILED", 7.0, 1),
        (307, "", "FAILED", 1.0, 1),
    ],
)
async def test_a_status_is_an_error_without_texts_of_the_endpoint(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    status: int,
    retry_after: str,
    reason: str,
    retry_seconds: float,
    requests: int,
) -> None:
    caplog.set_level(logging.DEBUG)
    body = {"error": {"message": f"secret words about {PROMPT} with {KEY}"}}
    fake, before = endpoint(refusal=(status, body), retry_after=retry_after), count(reason.lower())
    async with serving(tmp_path, fake) as stubs:
        error = await failure(stubs)
    busy = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.code == (busy if status == 429 else grpc.StatusCode.UNAVAILABLE)
    assert (error.reason, error.retry_seconds) == (f"EXTERNAL_MODEL_{reason}", retry_seconds)
    assert len(fake.requests) == requests
    assert count(reason.lower()) == before + requests
    for text in ("secret", PROMPT, KEY, "127.0.0.1:"):
        assert text not in error.text
    for text in ("secret", PROMPT, KEY):
        assert text not in caplog.text


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "dies": ({"cut_after": 1}, "LOST"),
    "closes": ({"raw": [text_event("one")]}, "LOST"),
    "done_without_finish": ({"raw": [text_event("one"), b"data: [DONE]\n\n"]}, "LOST"),
    "error_event": ({"error_after": 1}, "MALFORMED"),
    "nonsense": ({"raw": [b"data: {nonsense}\n\n"]}, "MALFORMED"),
    "no_object": ({"raw": [b"data: 7\n\n"]}, "MALFORMED"),
    "no_text": ({"raw": [event(delta={"content": [1]})]}, "MALFORMED"),
    "deep": ({"raw": [b"data: " + b"[" * 100_000 + b"\n\n"]}, "MALFORMED"),
    "infinite": (
        {
            "raw": [
                b'data: {"choices": [], "usage": {"prompt_tokens": Infinity, '
                b'"completion_tokens": 1}}\n\n'
            ]
        },
        "MALFORMED",
    ),
    "web_page": ({"raw": [b"<html>hello</html>\n"]}, "LOST"),
    "long_line": ({"endless_after": 1}, "MALFORMED"),
    "filter": ({"finish_reason": "content_filter"}, "FILTERED"),
    "tools": ({"finish_reason": "tool_calls"}, "LOST"),
    "endless_text": (
        {"raw": [text_event("x" * 1_000)], "raw_is_endless": True},
        "TOO_LONG",
    ),
    "endless_events": (
        {"raw": [b":" + b"x" * 1_000_000 + b"\n"], "raw_is_endless": True},
        "TOO_LONG",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_stream_fails_the_answer(tmp_path: Path, case: str) -> None:
    fields, reason = BROKEN[case]
    fake, before = endpoint(**fields), count(reason.lower())
    async with serving(tmp_path, fake) as stubs:
        error = await failure(stubs)
        assert (error.code, error.reason) == (
            grpc.StatusCode.UNAVAILABLE,
            f"EXTERNAL_MODEL_{reason}",
        )
        assert count(reason.lower()) == before + 1
        # The generator and the endpoint remain usable.
        fake.raw = fake.cut_after = fake.error_after = fake.endless_after = None
        fake.raw_is_endless, fake.finish_reason = False, "stop"
        assert text_of(await stubs.generate(pinned_version=NAME)) == "Hello there."


async def test_text_before_the_end_of_a_broken_stream_arrives(tmp_path: Path) -> None:
    texts: list[str] = []
    async with serving(tmp_path, endpoint(cut_after=2, pace_seconds=0.1)) as stubs:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for found in stubs.generator.Generate(ask(pinned_version=NAME), timeout=20):
                texts.append(found.text_delta)
    assert "".join(texts) == "Hello there"
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("fields", "changes", "settings"),
    [
        ({"silent_after": 0}, {}, {"first_token_seconds": 0.3}),
        ({"silent_after": 1}, {}, {"idle_seconds": 0.3}),
        # A stream that always moves on ends at the limit of the answer.
        (
            {"raw": [text_event("x")], "raw_is_endless": True, "pace_seconds": 0.05},
            {"seconds": 0.5},
            {},
        ),
        (
            {"raw": [b": wait\n"], "raw_is_endless": True, "pace_seconds": 0.05},
            {"seconds": 0.5},
            {},
        ),
    ],
)
async def test_a_slow_endpoint_fails_the_answer_and_is_aborted(
    tmp_path: Path, fields: dict[str, Any], changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    fake = endpoint(**fields)
    async with serving(tmp_path, fake, changes=changes, **settings) as stubs:
        error = await failure(stubs)
        async with asyncio.timeout(5):
            await fake.abort.wait()
    assert error.reason == "EXTERNAL_MODEL_SILENT"


async def test_cancellation_ends_the_request(tmp_path: Path) -> None:
    fake, before = endpoint(silent_after=1), count("cancelled")
    async with serving(tmp_path, fake) as stubs:
        call = stubs.generator.Generate(ask(pinned_version=NAME), timeout=20)
        async for found in call:
            if found.text_delta:
                break
        call.cancel()
        async with asyncio.timeout(5):
            await fake.abort.wait()
            while count("cancelled") == before:
                await asyncio.sleep(0.01)
    assert count("cancelled") == before + 1


async def test_an_unreachable_endpoint_fails_the_answer_only(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "key").write_text(KEY)
    external = {"rival": model(port, tmp_path / "key")}
    async with (
        predictor_server(FakePredictor()) as own,
        generator_service(tmp_path, own, external_models=external) as stubs,
    ):
        await until_ready(stubs, "v1")
        error = await failure(stubs)
        assert text_of(await stubs.generate()) == "Hello there."
    assert error.reason == "EXTERNAL_MODEL_UNREACHABLE"
    assert str(port) not in error.text


async def test_unusual_events_become_valid_text_and_counts(tmp_path: Path) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 10**12}}
    raw = [
        text_event("a\ud83d"),
        event(finish_reason="length"),
        b"data: " + json.dumps(usage).encode() + b"\n\n",
    ]
    async with serving(tmp_path, endpoint(raw=raw)) as stubs:
        *events, last = await stubs.generate(pinned_version=NAME)
    assert text_of(events) == "a?"
    assert last.finished.usage == chat_pb2.Usage(prompt_tokens=0, completion_tokens=10_000_000)


def test_limits_fit_the_longest_answers() -> None:
    assert MAX_ANSWER_CHARACTERS >= 32 * 4_096
    assert MAX_STREAM_BYTES > MAX_ANSWER_CHARACTERS


@pytest.mark.parametrize(
    ("name", "changes", "field"),
    [
        ("Rival", {}, "external_models.Rival.[key]"),
        ("r" * 120, {}, f"external_models.{'r' * 120}.[key]"),
        ("rival", {"url": "http://api.example.com/v1"}, "external_models.rival.url"),
        ("rival", {"url": "https://user:pass@api.example.com/v1"}, "external_models.rival.url"),
        ("rival", {"url": "https://api.example.com/v1?key=x"}, "external_models.rival.url"),
        ("rival", {"developer": ""}, "external_models.rival.developer"),
        ("rival", {"seconds": 601}, "external_models.rival.seconds"),
        ("rival", {"max_tokens": 4_097}, "external_models.rival.max_tokens"),
        ("rival", {"parameters": ["logprobs"]}, "external_models.rival.parameters.0"),
        ("rival", {"key": "sk-x"}, "external_models.rival.key"),
    ],
)
def test_unusable_settings_are_refused(name: str, changes: dict[str, Any], field: str) -> None:
    settings = {"external_models": {name: model(1, Path("/key"), **changes)}}
    with pytest.raises(ValidationError) as caught:
        GeneratorSettings.model_validate(settings)
    (found,) = caught.value.errors()
    assert ".".join(map(str, found["loc"])) == field


@pytest.mark.parametrize(
    "url",
    ["https://api.example.com/v1", "https://[::1]:8443", "http://vllm:8000/v1", "http://a.b.svc"],
)
def test_endpoints_outside_and_inside_the_cluster_are_accepted(url: str) -> None:
    settings = {"external_models": {"rival": model(1, Path("/key"), url=url)}}
    (found,) = GeneratorSettings.model_validate(settings).external()
    assert (found.url, found.name) == (url, NAME)
