"""The unmodified `openai` package against the gateway: answers, streams, errors."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import openai
import pytest
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import from_rpc
from services.contracts.limits import ContextLengthError, field_error
from tests.services.gateway.fakes import BAD_WORD, CANDIDATE, FORBIDDEN, STABLE
from tests.services.gateway.gateway_under_test import GatewayUnderTest

QUESTION: Any = [{"role": "user", "content": "hw does it work?"}]


@asynccontextmanager
async def client(
    gateway: GatewayUnderTest, key: str | None = None
) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=key or gateway.key, max_retries=0
    ) as opened:
        yield opened


async def test_complete_answer(gateway: GatewayUnderTest) -> None:
    history: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    history += [{"role": "assistant", "content": "Hello."}, *QUESTION]
    async with client(gateway) as api:
        answer = await api.chat.completions.create(
            model="thumbwheel",
            messages=history,
            temperature=0.2,
            top_p=0.9,
            max_tokens=50,
            stop=["END"],
            seed=7,
        )
    assert answer.choices[0].message.content == "The answer is 42."
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", STABLE)
    assert answer.usage is not None
    assert (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.usage.total_tokens,
    ) == (7, 4, 11)
    asked = gateway.fakes.generator.requests[0]
    assert [message.text for message in asked.messages] == [
        "Be brief.",
        "Hi",
        "Hello.",
        "hw does it work?",
    ]
    assert asked.messages[0].role == chat_pb2.ROLE_SYSTEM
    assert round(asked.sampling.temperature, 3) == 0.2
    assert (asked.sampling.max_tokens, list(asked.sampling.stop), asked.sampling.seed) == (
        50,
        ["END"],
        7,
    )


async def test_the_limit_of_stored_conversations_refuses_no_request(
    gateway: GatewayUnderTest,
) -> None:
    """Clients of this API cannot continue a conversation, so each request begins one."""
    gateway.fakes.session.full = "2,000 conversations of a user"
    async with client(gateway) as api:
        answer = await api.chat.completions.create(model="thumbwheel", messages=QUESTION)
    assert answer.choices[0].finish_reason == "stop"


async def test_trace_of_the_client_continues_in_the_services(gateway: GatewayUnderTest) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with client(gateway) as api:
        await api.chat.completions.create(
            model="thumbwheel",
            messages=QUESTION,
            extra_headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
        )
    (seen,) = gateway.fakes.generator.traces
    assert seen.split("-")[1] == trace


async def test_streamed_answer_with_usage(gateway: GatewayUnderTest) -> None:
    async with client(gateway) as api:
        stream = await api.chat.completions.create(
            model="thumbwheel",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert (
        "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        == "The answer is 42."
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 11
    assert len({chunk.id for chunk in chunks}) == 1


async def test_completion_id_contains_the_message_id_for_feedback(
    gateway: GatewayUnderTest,
) -> None:
    async with client(gateway) as api:
        answer = await api.chat.completions.create(model=CANDIDATE, messages=QUESTION)
    assert (answer.model, answer.id[:9]) == (CANDIDATE, "chatcmpl-")
    said = {
        "messageId": answer.id.removeprefix("chatcmpl-"),
        "requestId": "r",
        "thumb": {"up": True},
    }
    async with gateway.http.post(
        f"{gateway.url}/api/feedback", json=said, headers=gateway.headers()
    ) as response:
        assert response.status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_blocked_question_ends_as_content_filter_with_the_rejection(
    gateway: GatewayUnderTest, stream: bool
) -> None:
    messages: Any = [{"role": "user", "content": f"the {FORBIDDEN} thing"}]
    async with client(gateway) as api:
        if stream:
            chunks = [
                chunk
                async for chunk in await api.chat.completions.create(
                    model="thumbwheel", messages=messages, stream=True
                )
            ]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            answer = await api.chat.completions.create(model="thumbwheel", messages=messages)
            text, reason = str(answer.choices[0].message.content), answer.choices[0].finish_reason
    assert (text, reason) == ("I cannot help with that.", "content_filter")


async def test_blocked_answer_never_shows_the_blocked_part(gateway: GatewayUnderTest) -> None:
    gateway.fakes.generator.deltas = ["Fine. ", f"{BAD_WORD}."]
    async with client(gateway) as api:
        answer = await api.chat.completions.create(model="thumbwheel", messages=QUESTION)
    assert answer.choices[0].finish_reason == "content_filter"
    assert BAD_WORD not in str(answer.choices[0].message.content)


async def test_history_of_the_client_is_checked_by_the_guard(gateway: GatewayUnderTest) -> None:
    history: Any = [
        {"role": "user", "content": FORBIDDEN},
        {"role": "assistant", "content": "Sure, first"},
    ]
    async with client(gateway) as api:
        answer = await api.chat.completions.create(
            model="thumbwheel", messages=[*history, *QUESTION]
        )
    assert answer.choices[0].finish_reason == "content_filter"
    assert gateway.fakes.generator.requests == []
    assert gateway.fakes.guardrail.inputs == [["hw does it work?", FORBIDDEN, "Sure, first"]]


async def test_errors_raise_the_exceptions_of_the_package(gateway: GatewayUnderTest) -> None:
    async with client(gateway) as api, client(gateway, "tw_" + "A" * 43) as stranger:
        with pytest.raises(openai.NotFoundError) as unknown:
            await api.chat.completions.create(model="gpt-9", messages=QUESTION)
        with pytest.raises(openai.BadRequestError) as hot:
            await api.chat.completions.create(model="thumbwheel", messages=QUESTION, temperature=9)
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.list()
        gateway.fakes.guardrail.away = True
        with pytest.raises(openai.InternalServerError) as away:
            await api.chat.completions.create(model="thumbwheel", messages=QUESTION)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    assert (hot.value.code, hot.value.param) == ("invalid_argument", "temperature")
    assert {"0", "2"} <= set(re.findall(r"\d+", hot.value.message)), "the limit"
    assert away.value.status_code == 503


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "sent", "openai_name", "name"),
    [
        ("user.text", {}, "messages[0].content", "input.text"),
        ("history[1].text", {}, "messages[1].content", "input.history[1].text"),
        ("user.original_text", {}, "messages[0].content", "input.text"),
        ("reply_tokens", {"max_tokens": 9}, "max_tokens", "sampling.maxTokens"),
        (
            "reply_tokens",
            {"max_completion_tokens": 9},
            "max_completion_tokens",
            "sampling.maxTokens",
        ),
    ],
)
async def test_refusal_by_the_session_names_a_field_of_the_api(
    gateway: GatewayUnderTest,
    field: str,
    sent: dict[str, int],
    openai_name: str,
    name: str,
    stream: bool,
) -> None:
    gateway.fakes.session.refusal = field_error(field, "fewer than 256 tokens")
    async with client(gateway) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            await api.chat.completions.create(
                model="thumbwheel", messages=QUESTION, stream=stream, extra_body=sent
            )
    assert caught.value.param == openai_name
    assert openai_name in caught.value.message and "fewer than 256 tokens" in caught.value.message
    async with gateway.http.post(
        f"{gateway.url}/api/messages", json={"input": {"text": "hi"}}, headers=gateway.headers()
    ) as response:
        assert (await response.json())["error"]["param"] == name


async def test_message_that_does_not_fit_the_context_is_named_with_its_tokens_in_all_apis(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.session.refusal = ContextLengthError(
        f"{ContextLengthError.TEXT}: the system message (history[0].text) has 9120 tokens",
        field="history[0].text",
        limit="6074 tokens",
        actual="9120 tokens",
    )
    async with client(gateway) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            await api.chat.completions.create(model="thumbwheel", messages=QUESTION)
    assert (caught.value.code, caught.value.param) == (
        "context_length_exceeded",
        "messages[0].content",
    )
    assert {"9120", "6074"} <= set(re.findall(r"\d+", caught.value.message))
    async with gateway.http.post(
        f"{gateway.url}/api/messages", json={"input": {"text": "hi"}}, headers=gateway.headers()
    ) as response:
        error = (await response.json())["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "input.history[0].text")
    assert {"9120", "6074"} <= set(re.findall(r"\d+", error["message"]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await gateway.ask("hi")
    ours = from_rpc(refused.value, "gateway")
    assert (ours.field, ours.limit, ours.actual) == (
        "input.history[0].text",
        "6074 tokens",
        "9120 tokens",
    )


async def test_error_during_the_stream_is_raised_by_the_package(gateway: GatewayUnderTest) -> None:
    gateway.fakes.generator.breaks_after = 2
    seen = ""
    async with client(gateway) as api:
        stream = await api.chat.completions.create(
            model="thumbwheel", messages=QUESTION, stream=True
        )
        with pytest.raises(openai.APIError) as caught:
            async for chunk in stream:
                seen += chunk.choices[0].delta.content or ""
    assert caught.value.code == "model_server_away"
    assert seen == "The answer "


@pytest.mark.parametrize("stream", [False, True])
async def test_disconnected_client_stops_the_model(gateway: GatewayUnderTest, stream: bool) -> None:
    never, reached = asyncio.Event(), asyncio.Event()

    async def gate(number: int) -> None:
        if number == 1:
            reached.set()
            await never.wait()

    gateway.fakes.generator.gate = gate
    async with client(gateway) as api:
        asking = asyncio.create_task(_read(api, stream))
        await asyncio.wait_for(reached.wait(), 5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await asyncio.wait_for(gateway.fakes.generator.cancelled.wait(), 5)


async def _read(api: openai.AsyncOpenAI, stream: bool) -> None:
    answer: Any = await api.chat.completions.create(
        model="thumbwheel", messages=QUESTION, stream=stream
    )
    if stream:
        async for _ in answer:
            pass


async def test_models_are_the_rollout_and_the_served_versions(
    gateway: GatewayUnderTest,
) -> None:
    async with client(gateway) as api:
        assert [model.id async for model in api.models.list()] == ["thumbwheel", STABLE, CANDIDATE]
        assert (await api.models.retrieve(CANDIDATE)).id == CANDIDATE
        with pytest.raises(openai.NotFoundError):
            await api.models.retrieve("gpt-9")


async def test_version_before_is_a_model_during_the_watch(gateway: GatewayUnderTest) -> None:
    generator = gateway.fakes.generator
    generator.stable, generator.candidate, generator.watched = CANDIDATE, "", STABLE
    async with client(gateway) as api:
        assert [model.id async for model in api.models.list()] == ["thumbwheel", CANDIDATE, STABLE]
        await api.chat.completions.create(model=STABLE, messages=QUESTION)
    assert generator.requests[0].pinned_version == STABLE


async def test_parameters_without_effect_are_accepted(gateway: GatewayUnderTest) -> None:
    nothing: Any = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "user": "u",
    }
    nothing |= {"response_format": {"type": "text"}, "logit_bias": None, "metadata": {"a": "b"}}
    parts: Any = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "hw "}, {"type": "text", "text": "so?"}],
        }
    ]
    async with client(gateway) as api:
        await api.chat.completions.create(model="thumbwheel", messages=parts, **nothing)
    # Without the enhancer, because this API cannot show its changes.
    assert gateway.fakes.generator.requests[0].messages[-1].text == "hw so?"
