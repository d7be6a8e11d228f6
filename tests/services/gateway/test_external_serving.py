"""The chat path in front of an external endpoint: gateway, session and generator with their wiring.

Guardrail, enhancer and feedback log are fakes, the endpoint is a real HTTP server.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.errors import from_rpc
from services.chassis.server import serving
from services.session.__main__ import wiring as session_wiring
from tests.services.gateway.fakes import FORBIDDEN, SECRET, backends
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway_over, text_of
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import generator_service
from tests.services.session.service import PRINCIPAL_KEY, Home, session_settings

VERSION, KEY, WINDOW, REPLY = "external.rival", "sk-key-of-the-test", 400, 100


@dataclass
class Chain:
    """A gateway in front of an endpoint."""

    gateway: GatewayUnderTest
    endpoint: FakePredictor
    key_file: Path


@asynccontextmanager
async def chain(root: Path, **fields: Any) -> AsyncIterator[Chain]:
    """Run the services. `fields` are those of the endpoint."""
    fake = FakePredictor(**({"states": {"m1": "READY"}, "key": KEY} | fields))
    key_file = root / "endpoint-key"
    key_file.write_text(KEY)
    async with backends() as (fakes, target), predictor_server(fake) as endpoint_port:
        model = {
            "url": f"http://127.0.0.1:{endpoint_port}/v1",
            "model": "m1",
            "key_file": key_file,
            "developer": "Example",
            "licence": "proprietary",
        }
        session = session_settings(
            Home(root, f"sqlite:///{root}/state/sessions.db"),
            tokenizer_file=None,
            count_bytes=True,
            context_tokens=WINDOW,
            reply_tokens=REPLY,
            feedback_target=target,
        )
        async with (
            generator_service(
                root, 0, serving="external", external_models={"rival": model}, reply_tokens=REPLY
            ) as generator,
            session_wiring(session) as registrations,
            serving(session, registrations) as session_port,
            run_gateway_over(
                root,
                fakes,
                target,
                generator_target=f"127.0.0.1:{generator.port}",
                session_target=f"127.0.0.1:{session_port}",
                principal_key=PRINCIPAL_KEY,
            ) as gateway,
        ):
            yield Chain(gateway, fake, key_file)


async def failure(gateway: GatewayUnderTest, text: str = "What is it?") -> Any:
    """Return the error of a turn over gRPC."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.ask(text)
    return from_rpc(caught.value, "gateway")


async def test_a_conversation_over_grpc_page_and_openai_api(tmp_path: Path) -> None:
    async with chain(tmp_path) as found:
        gateway, endpoint = found.gateway, found.endpoint
        turn = await gateway.ask("First question")
        started = turn[0].started
        assert text_of(turn) == "Hello there."
        body = {
            "conversationId": started.conversation_id,
            "parentMessageId": turn[0].message_id,
            "input": {"text": "Second question"},
        }
        async with gateway.http.post(
            f"{gateway.url}/api/messages", json=body, headers=gateway.headers()
        ) as response:
            assert response.status == 200, await response.text()
            assert "there" in await response.text()
        sent = endpoint.requests[-1]["messages"]
        assert [message["content"] for message in sent] == [
            "First question",
            "Hello there.",
            "Second question",
        ]
        async with openai.AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0
        ) as api:
            names = [model.id async for model in api.models.list()]
            answer = await api.chat.completions.create(
                model=VERSION,
                messages=[
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Third question"},
                ],
                stop=["END"],
            )
        assert names == ["thumbwheel", VERSION]
        assert (answer.model, answer.choices[0].message.content) == (VERSION, "Hello there.")
        assert answer.usage and answer.usage.total_tokens == 10
        last = endpoint.requests[-1]
        assert [message["role"] for message in last["messages"]] == ["system", "user"]
        assert last["stop"] == ["END"]


async def test_feedback_names_the_external_model(tmp_path: Path) -> None:
    async with chain(tmp_path) as found:
        turn = await found.gateway.ask()
        request = feedback_pb2.SubmitFeedbackRequest(
            message_id=turn[0].message_id, request_id="r1", thumb=events_pb2.Thumb(up=True)
        )
        reply = await found.gateway.feedback.SubmitFeedback(
            request, timeout=10, metadata=found.gateway.metadata()
        )
        event = found.gateway.fakes.feedback.events[reply.event_id]
    assert (event.model_version, event.arm) == (VERSION, "stable")


async def test_the_guardrail_checks_both_directions(tmp_path: Path) -> None:
    async with chain(tmp_path, script=["the ", SECRET]) as found:
        blocked = await found.gateway.ask(f"{FORBIDDEN} please")
        assert not found.endpoint.requests
        assert blocked[-1].completed.finish_reason == chat_pb2.FINISH_REASON_INPUT_BLOCKED
        assert SECRET not in text_of(await found.gateway.ask())


async def test_a_long_conversation_stays_within_the_window(tmp_path: Path) -> None:
    async with chain(tmp_path, script=["é" * 20]) as found:
        turn, sizes = await found.gateway.ask("ü" * 30), []
        for _ in range(8):
            parent = turn[0].started
            turn = await found.gateway.ask(
                "ü" * 30,
                conversation_id=parent.conversation_id,
                parent_message_id=turn[0].message_id,
            )
            sent = found.endpoint.requests[-1]
            sizes.append(sum(len(one["content"].encode()) for one in sent["messages"]))
            assert sizes[-1] + sent["max_tokens"] <= WINDOW
        # The window is used: messages are dropped only when they no longer fit.
        assert max(sizes) > (WINDOW - REPLY) // 2
        error = await failure(found.gateway, "x" * WINDOW)
    assert (error.code, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, "input.text")


async def test_an_endpoint_that_dies_fails_the_turn_with_its_text(tmp_path: Path) -> None:
    async with chain(tmp_path, cut_after=2) as found:
        events: list[Any] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in found.gateway.send():
                events.append(event)
        assert from_rpc(caught.value, "gateway").reason == "EXTERNAL_MODEL_LOST"
        assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_FAILED
        found.endpoint.cut_after = None
        assert text_of(await found.gateway.ask()) == "Hello there."


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"key": "sk-another"}, 503, "external_model_key_refused"),
        ({"refusal": (429, {}), "retry_after": "7"}, 429, "external_model_busy"),
        (
            {"refusal": (400, {"error": {"code": "context_length_exceeded"}})},
            400,
            "context_length_exceeded",
        ),
    ],
)
async def test_a_failure_of_the_endpoint_is_an_error_of_the_http_api(
    tmp_path: Path, fields: dict[str, Any], status: int, code: str
) -> None:
    body = {"model": "thumbwheel", "messages": [{"role": "user", "content": "words"}]}
    async with (
        chain(tmp_path, **fields) as found,
        found.gateway.http.post(
            f"{found.gateway.url}/v1/chat/completions", json=body, headers=found.gateway.headers()
        ) as response,
    ):
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, code)
        assert ("7" if status == 429 else None) in (response.headers.get("retry-after"), None)
        assert KEY not in str(error)


async def test_an_endpoint_without_usage_is_counted_by_characters(tmp_path: Path) -> None:
    async with chain(tmp_path, reports_usage=False, script=["12345678", "9"]) as found:
        turn = await found.gateway.ask("12345678")
    (usage,) = [event.usage for event in turn if event.HasField("usage")]
    assert (usage.prompt_tokens, usage.completion_tokens) == (2, 3)


async def test_stop_ends_the_request_to_the_endpoint(tmp_path: Path) -> None:
    async with chain(tmp_path, silent_after=1) as found:
        call = found.gateway.send()
        async for event in call:
            if event.HasField("text_delta"):
                await found.gateway.chat.CancelMessage(
                    chat_pb2.CancelMessageRequest(message_id=event.message_id),
                    timeout=5,
                    metadata=found.gateway.metadata(),
                )
        await found.endpoint.abort.wait()
