"""Generations over gRPC: events, sampling, errors by name, cancellation, hanging servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2

from infra.run.supervision.ports import HOST, free_port
from services.chassis.errors import UnavailableError, from_rpc
from services.generator.answering.engine import NO_MODEL, Timeouts
from services.generator.answering.model_server import HttpModelServer
from services.generator.answering.presets import Sampling
from services.generator.rollout.reconcile import SERVER_UNAVAILABLE
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import (
    Stubs,
    ask,
    error_of,
    generator_service,
    text_of,
    until_ready,
)


@asynccontextmanager
async def ready(root: Path, predictor: FakePredictor, **changes: Any) -> AsyncIterator[Stubs]:
    """Run a generator with a ready stable version and yield its stubs."""
    async with (
        predictor_server(predictor) as port,
        generator_service(root, port, **changes) as stubs,
    ):
        await until_ready(stubs, "v1")
        yield stubs


async def test_a_generation_yields_selected_then_text_then_finished(tmp_path: Path) -> None:
    predictor = FakePredictor(script=["Héllo", " ", "🙂"], finish_reason="length")
    async with ready(tmp_path, predictor) as stubs:
        first, *deltas, last = await stubs.generate("hello")
    assert first.WhichOneof("event") == "selected"
    assert (first.selected.model_version, first.selected.arm) == ("v1", "stable")
    assert (first.selected.assignment_probability, first.selected.task) == (1.0, chat_pb2.TASK_CHAT)
    assert text_of(deltas) == "Héllo 🙂"
    assert all(delta.text_delta for delta in deltas)
    assert last.finished.finish_reason == chat_pb2.FINISH_REASON_LENGTH
    assert last.finished.usage == chat_pb2.Usage(prompt_tokens=7, completion_tokens=3)


async def test_the_model_server_gets_the_whole_context_and_the_sampling_of_the_task(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor()
    messages = [
        chat_pb2.HistoryMessage(role=chat_pb2.ROLE_SYSTEM, text="be brief"),
        chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="hello"),
        chat_pb2.HistoryMessage(role=chat_pb2.ROLE_ASSISTANT, text="hi"),
        chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="Write a poem."),
    ]
    sampling = chat_pb2.SamplingOverrides(top_p=0.5, max_tokens=20, stop=["END"], seed=2**64 - 1)
    async with ready(tmp_path, predictor) as stubs:
        events = await stubs.generate(messages=messages, sampling=sampling)
    (request,) = predictor.requests
    assert request.pop("seed") < 2**63
    assert request == {
        "model": "v1",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": "Write a poem."},
        ],
        "temperature": 1.0,
        "top_p": 0.5,
        "max_tokens": 20,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }  # with a stop string, no tokens are requested
    selected = events[0].selected
    assert (selected.task, selected.max_tokens) == (chat_pb2.TASK_CREATIVE, 20)
    assert (round(selected.temperature, 6), round(selected.top_p, 6)) == (1.0, 0.5)


def token_fields(token: int, log_prob: float) -> dict[str, Any]:
    """Return the token fields of one token, as sent by vLLM and by the predictor."""
    score = {"token": "x", "logprob": log_prob, "bytes": None, "top_logprobs": []}
    return {"token_ids": [token], "logprobs": {"content": [score]}}


async def test_the_final_event_has_every_token_and_log_prob(tmp_path: Path) -> None:
    predictor = FakePredictor(
        token_fields=[token_fields(262143, -0.25), token_fields(7, -1.5), token_fields(1, -0.0)]
    )
    async with ready(tmp_path, predictor) as stubs:
        events = await stubs.generate("hello")
    assert predictor.requests[0]["logprobs"] is predictor.requests[0]["return_token_ids"] is True
    sample = events[-1].finished.sample
    assert (list(sample.token_ids), list(sample.log_probs)) == ([262143, 7, 1], [-0.25, -1.5, 0.0])
    assert not any(event.HasField("finished") for event in events[:-1])


async def test_an_incomplete_sample_is_dropped_and_the_answer_is_complete(
    tmp_path: Path,
) -> None:
    for partly in (
        [],
        [token_fields(5, -1.0)],
        [token_fields(5, -1.0), {"token_ids": [6]}, token_fields(7, -1.0)],
    ):
        async with ready(tmp_path, FakePredictor(token_fields=partly)) as stubs:
            events = await stubs.generate("hello")
        assert text_of(events) == "Hello there."
        assert not events[-1].finished.HasField("sample")


async def test_tokens_are_not_requested_with_stop_strings_or_when_disabled(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor(
        token_fields=[token_fields(5, -1.0), token_fields(6, -1.0), token_fields(7, -1.0)]
    )
    async with ready(tmp_path, predictor) as stubs:
        await stubs.generate("hello", sampling=chat_pb2.SamplingOverrides(stop=["END"]))
    async with ready(tmp_path, predictor, served_samples=False) as stubs:
        await stubs.generate("hello")
    assert not any(
        "logprobs" in request or "return_token_ids" in request for request in predictor.requests
    )


async def test_an_explicit_task_is_used(tmp_path: Path) -> None:
    predictor = FakePredictor()
    async with ready(tmp_path, predictor) as stubs:
        events = await stubs.generate("Write a poem.", task=chat_pb2.TASK_CODE)
    assert events[0].selected.task == chat_pb2.TASK_CODE
    assert predictor.requests[0]["max_tokens"] == 1024


TASKS = [
    (chat_pb2.TASK_CODE, 0.1, 0.2),
    (chat_pb2.TASK_QUESTION_ANSWERING, 0.4, 0.3),
    (chat_pb2.TASK_CHAT, 0.9, 0.7),
    (chat_pb2.TASK_CREATIVE, 0.95, 1.0),
]


async def test_each_task_is_sampled_by_its_preset_and_reported_in_the_event(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor()
    async with ready(tmp_path, predictor) as stubs:
        for task, top_p, temperature in TASKS:
            selected = (await stubs.generate(task=task))[0].selected
            assert (round(selected.top_p, 6), round(selected.temperature, 6)) == (
                top_p,
                temperature,
            )
    sent = [(request["top_p"], request["temperature"]) for request in predictor.requests]
    assert sent == [(top_p, temperature) for _, top_p, temperature in TASKS]


async def test_a_setting_replaces_single_values_of_the_presets(tmp_path: Path) -> None:
    predictor = FakePredictor()
    async with ready(tmp_path, predictor, presets={"code": {"top_p": 0.25}}) as stubs:
        for task in (chat_pb2.TASK_CODE, chat_pb2.TASK_CHAT):
            await stubs.generate(task=task)
    sent = [(request["top_p"], request["temperature"]) for request in predictor.requests]
    assert sent == [(0.25, 0.2), (0.9, 0.7)]


async def test_cancelling_aborts_the_answer_in_the_model_server(tmp_path: Path) -> None:
    predictor = FakePredictor(script=["word "] * 1000, pace_seconds=0.005)
    async with ready(tmp_path, predictor) as stubs:
        call = stubs.generator.Generate(ask(), timeout=20)
        async for event in call:
            if event.text_delta:
                break
        assert predictor.counters.running == 1
        call.cancel()
        async with asyncio.timeout(5):
            await predictor.abort.wait()
    assert (predictor.counters.running, len(predictor.counters.aborted_at)) == (0, 1)


async def test_cancelling_before_the_first_text_aborts_too(tmp_path: Path) -> None:
    predictor = FakePredictor(silent_after=0)
    async with ready(tmp_path, predictor) as stubs:
        call = stubs.generator.Generate(ask(), timeout=20)
        async for event in call:
            assert event.selected.model_version == "v1"
            break
        async with asyncio.timeout(5):
            while not predictor.counters.running:
                await asyncio.sleep(0.01)
            call.cancel()
            await predictor.abort.wait()


async def test_a_deadline_aborts_too(tmp_path: Path) -> None:
    predictor = FakePredictor(silent_after=1)
    async with ready(tmp_path, predictor) as stubs:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in stubs.generator.Generate(ask(), timeout=0.3):
                pass
        async with asyncio.timeout(5):
            await predictor.abort.wait()


@pytest.mark.parametrize(
    "silent_after", [0, 2], ids=["before the first text", "between two chunks"]
)
async def test_an_answer_that_exceeds_a_timeout_fails_and_is_aborted(
    tmp_path: Path, silent_after: int
) -> None:
    predictor = FakePredictor(silent_after=silent_after)
    async with ready(tmp_path, predictor, first_token_seconds=0.3, idle_seconds=0.2) as stubs:
        error = await error_of(stubs)
        async with asyncio.timeout(5):
            await predictor.abort.wait()
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_SILENT")


async def test_a_busy_model_server_that_misses_a_probe_stays_ready(
    tmp_path: Path,
) -> None:
    """An unanswered probe is a hang only after the running answers have ended."""
    predictor = FakePredictor(script=["word "] * 2_000, pace_seconds=0.01)
    async with ready(tmp_path, predictor, hang_seconds=1.0) as stubs:
        running = stubs.generator.Generate(ask(), timeout=20)
        predictor.hanging.set()
        async with asyncio.timeout(5):
            await predictor.left_unanswered.wait()
        await asyncio.sleep(1.3)  # the probe of the generator has timed out
        other = stubs.generator.Generate(ask(), timeout=20)
        assert (await other.read()).selected.model_version == "v1"
        running.cancel()
        other.cancel()
        await until_unavailable(stubs)
        assert (await error_of(stubs)).reason == "MODEL_NOT_READY"
        predictor.hanging.clear()
        await until_ready(stubs, "v1")


async def until_unavailable(stubs: Stubs) -> None:
    async with asyncio.timeout(5):
        while (await stubs.state()).stable.state == generator_pb2.VERSION_STATE_READY:
            await asyncio.sleep(0.02)


async def test_timeouts_apply_between_chunks_and_not_to_the_whole_answer(tmp_path: Path) -> None:
    predictor = FakePredictor(script=["word "] * 16, pace_seconds=0.25)
    async with ready(tmp_path, predictor, first_token_seconds=3, idle_seconds=3) as stubs:
        assert text_of(await stubs.generate()) == "word " * 16


@pytest.mark.parametrize(
    "broken", [{"cut_after": 2}, {"error_after": 2}, {"finish_reason": "abort"}]
)
async def test_a_truncated_answer_ends_in_an_error_after_its_text(
    tmp_path: Path, broken: dict[str, Any]
) -> None:
    predictor = FakePredictor(script=["one ", "two ", "three "], pace_seconds=0.05, **broken)
    events: list[Any] = []
    async with ready(tmp_path, predictor) as stubs:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in stubs.generator.Generate(ask(), timeout=20):
                events.append(event)
    assert from_rpc(caught.value, "generator").reason == "MODEL_SERVER_LOST"
    assert text_of(events).startswith("one two ")
    assert not any(event.WhichOneof("event") == "finished" for event in events)


async def test_a_line_without_an_end_closes_the_connection(tmp_path: Path) -> None:
    predictor = FakePredictor(script=["one ", "two "], endless_after=1)
    async with ready(tmp_path, predictor) as stubs:
        assert (await error_of(stubs)).reason == "MODEL_SERVER_LOST"
        async with asyncio.timeout(5):
            await predictor.abort.wait()


TOO_LONG = {
    "message": "messages has 9000 tokens; with at least 1 new token the limit is 4096",
    "param": "messages",
}


# As sent by vLLM 0.32.
TOO_LONG_FOR_VLLM = {
    "message": "This model's maximum context length is 4096 tokens. However, your prompt contains "
    "at least 4097 input tokens, which exceeds this limit even without any output tokens. "
    "Please reduce the length of the input prompt. (parameter=input_tokens, value=4097)",
    "type": "BadRequestError",
    "param": "input_tokens",
    "code": 400,
}
TOO_MANY_FOR_VLLM = {
    "message": "max_tokens=5000 cannot be greater than max_model_len=1024. Please request fewer "
    "output tokens. (parameter=max_tokens, value=5000)",
    "type": "BadRequestError",
    "param": "max_tokens",
    "code": 400,
}


@pytest.mark.parametrize(
    ("status", "error", "code", "reason", "field", "limit"),
    [
        (
            400,
            TOO_LONG_FOR_VLLM,
            grpc.StatusCode.INVALID_ARGUMENT,
            "CONTEXT_LENGTH_EXCEEDED",
            "messages",
            "4096 tokens",
        ),
        (
            400,
            TOO_MANY_FOR_VLLM,
            grpc.StatusCode.INVALID_ARGUMENT,
            "CONTEXT_LENGTH_EXCEEDED",
            "max_tokens",
            "1024 tokens",
        ),
        (
            400,
            TOO_LONG,
            grpc.StatusCode.INVALID_ARGUMENT,
            "CONTEXT_LENGTH_EXCEEDED",
            "messages",
            "4096 tokens",
        ),
        (
            400,
            {"message": "secret words", "param": "stop"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            "stop",
            "",
        ),
        (
            400,
            {"message": "secret words"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ARGUMENT",
            "messages",
            "",
        ),
        (413, "secret words", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", "messages", ""),
        (401, "secret words", grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_REFUSES", "", ""),
        (403, "secret words", grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_REFUSES", "", ""),
        (429, {}, grpc.StatusCode.RESOURCE_EXHAUSTED, "MODEL_QUEUE_FULL", "", ""),
        (503, {}, grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY", "", ""),
        (
            500,
            {"message": "secret words"},
            grpc.StatusCode.UNAVAILABLE,
            "MODEL_SERVER_FAILED",
            "",
            "",
        ),
    ],
)
async def test_an_error_of_the_model_server_is_translated_without_its_text(
    tmp_path: Path,
    status: int,
    error: Any,
    code: grpc.StatusCode,
    reason: str,
    field: str,
    limit: str,
) -> None:
    predictor = FakePredictor()
    async with ready(tmp_path, predictor) as stubs:
        predictor.refusal = (status, {"error": error})
        found = await error_of(stubs)
    assert (found.code, found.reason, found.field, found.limit) == (code, reason, field, limit)
    assert "secret" not in found.text
    assert found.retry_seconds == (3.0 if status in (429, 500, 503) else 0.0)


async def test_a_full_queue_is_not_retried(tmp_path: Path) -> None:
    predictor = FakePredictor(refusal=(503, {"error": {}}))
    async with ready(tmp_path, predictor) as stubs:
        await error_of(stubs)
    assert len(predictor.requests) == 1


async def test_a_pinned_version_answers_regardless_of_the_rollout(tmp_path: Path) -> None:
    predictor = FakePredictor(states={"other": "READY"})
    async with ready(tmp_path, predictor) as stubs:
        events = await stubs.generate(pinned_version="other")
        missing = await error_of(stubs, pinned_version="gone")
    selected = events[0].selected
    assert (selected.model_version, selected.arm, selected.assignment_probability) == (
        "other",
        "pinned",
        1.0,
    )
    assert predictor.requests[0]["model"] == "other"
    assert (missing.code, missing.field) == (grpc.StatusCode.NOT_FOUND, "pinned_version")


async def test_an_unavailable_model_server_is_a_retryable_error(tmp_path: Path) -> None:
    async with generator_service(tmp_path, 1) as stubs:
        error = await error_of(stubs)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")
    assert SERVER_UNAVAILABLE in error.text
    assert error.retry_seconds > 0


async def test_a_user_sees_no_address_of_the_model_server() -> None:
    """Finding S-27: the text named the address inside the cluster."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=1)
    async with aiohttp.ClientSession() as http:
        server = HttpModelServer(http, f"http://{HOST}:{free_port()}", Timeouts(5, 5, 5), 5)
        with pytest.raises(UnavailableError) as caught:
            await server.answer(
                "nano-0",
                [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="Hi")],
                sampling,
                print,
            )
    assert caught.value.reason == "MODEL_NOT_READY"
    assert HOST not in caught.value.text


async def test_without_a_model_the_error_names_the_installation_command(tmp_path: Path) -> None:
    async with (
        predictor_server(FakePredictor()) as port,
        generator_service(tmp_path, port, stable_directory=None) as stubs,
    ):
        error = await error_of(stubs)
    assert error.reason == "MODEL_NOT_READY"
    assert error.text == NO_MODEL


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"user_key": ""}, "user_key", "1 to 256 characters"),
    ({"user_key": "u" * 257}, "user_key", "1 to 256 characters"),
    ({"messages": []}, "messages", "at least 1, and the last by the user"),
    (
        {"messages": [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_ASSISTANT, text="x")]},
        "messages",
        "at least 1, and the last by the user",
    ),
    (
        {
            "messages": [
                chat_pb2.HistoryMessage(text="x"),
                chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="x"),
            ]
        },
        "messages[0].role",
        "system, user or assistant",
    ),
    ({"text": "x" * 32_769}, "messages[0].text", "at most 32,768 characters"),
    ({"task": 9}, "task", "a task of chat.v1"),
    ({"sampling": chat_pb2.SamplingOverrides(temperature=9)}, "sampling.temperature", "0 to 2"),
    ({"sampling": chat_pb2.SamplingOverrides(top_p=0)}, "sampling.top_p", "above 0 to 1"),
    (
        {"sampling": chat_pb2.SamplingOverrides(max_tokens=5000)},
        "sampling.max_tokens",
        "1 to 4,096",
    ),
    ({"sampling": chat_pb2.SamplingOverrides(stop=["x"] * 5)}, "sampling.stop", "at most 4"),
]


async def test_invalid_input_names_field_and_limit_and_is_not_forwarded(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor()
    async with ready(tmp_path, predictor) as stubs:
        for fields, field, limit in BAD:
            error = await error_of(stubs, **fields)
            assert (error.code, error.field, error.limit) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                field,
                limit,
            )
    assert not predictor.requests
