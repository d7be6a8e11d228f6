"""Client on a real channel: requests, answers, and retries without duplicates."""

import re
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc

from infra.simulate.users.client import (
    CallFailedError,
    Client,
    MessageTarget,
    RetryPolicy,
    open_client,
)
from tests.support.errors import refused

# Error text of the fake gateway.
SAID = "not now"
PATIENCE = RetryPolicy(seconds=3.0, first_wait_seconds=0.01, longest_wait_seconds=0.02)


class Gateway(chat_pb2_grpc.ChatServiceServicer, feedback_pb2_grpc.FeedbackServiceServicer):
    """Fake gateway that fails a given number of times, before or after the first event."""

    def __init__(self) -> None:
        self.turns: list[chat_pb2.SendMessageRequest] = []
        self.submitted: list[feedback_pb2.SubmitFeedbackRequest] = []
        self.keys: set[str] = set()
        self.failures: list[grpc.StatusCode] = []
        self.retry_seconds = 0.0
        self.asked_at: list[float] = []

    async def SendMessage(
        self, request: chat_pb2.SendMessageRequest, context: Any
    ) -> AsyncIterator[chat_pb2.ChatEvent]:
        self.turns.append(request)
        self._note(context)
        started = chat_pb2.Started(conversation_id="c", user_message_id="u", model_version="v7")
        yield chat_pb2.ChatEvent(sequence=1, message_id="m", started=started)
        await self._perhaps_fail(context)
        for text in ("Hello ", "there.\n"):
            yield chat_pb2.ChatEvent(
                sequence=2, message_id="m", text_delta=chat_pb2.TextDelta(text=text)
            )
        completed = chat_pb2.Completed(finish_reason=chat_pb2.FINISH_REASON_STOP)
        yield chat_pb2.ChatEvent(sequence=4, message_id="m", completed=completed)

    async def SubmitFeedback(
        self, request: feedback_pb2.SubmitFeedbackRequest, context: Any
    ) -> feedback_pb2.SubmitFeedbackResponse:
        self.submitted.append(request)
        self._note(context)
        await self._perhaps_fail(context)
        return feedback_pb2.SubmitFeedbackResponse()

    def _note(self, context: Any) -> None:
        self.asked_at.append(time.monotonic())
        self.keys.add(dict(context.invocation_metadata())["authorization"])

    async def _perhaps_fail(self, context: Any) -> None:
        if self.failures:
            code = self.failures.pop()
            status = status_pb2.Status(code=code.value[0], message=SAID)
            status.details.add().Pack(
                error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="thumbwheel")
            )
            if self.retry_seconds:
                delay = duration_pb2.Duration(nanos=int(self.retry_seconds * 1e9))
                status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
            await context.abort(
                code, SAID, (("grpc-status-details-bin", status.SerializeToString()),)
            )


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[Gateway, Client]]:
    server, servicer = grpc.aio.server(), Gateway()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(servicer, server)
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_client(f"127.0.0.1:{port}", PATIENCE) as client:
        yield servicer, client
    await server.stop(None)


async def test_question_uses_chat_preset_and_answer_is_complete(
    gateway: tuple[Gateway, Client],
) -> None:
    servicer, client = gateway
    answer = await client.ask("secret", "Hello?", MessageTarget("c", "p"), model="v7")
    (request,) = servicer.turns
    assert (
        request.input.text,
        request.conversation_id,
        request.parent_message_id,
        request.model,
    ) == (
        *("Hello?", "c", "p"),
        "v7",
    )
    assert (request.task, request.HasField("sampling")) == (chat_pb2.TASK_CHAT, False)
    assert (answer.text, answer.message_id, answer.model_version, answer.refused) == (
        "Hello there.",
        "m",
        "v7",
        False,
    )
    again = await client.ask_again("secret", answer)
    assert servicer.turns[1].regenerate.message_id == "u"
    assert again.user_message_id == "u"
    assert servicer.keys == {"Bearer secret"}


async def test_thumbs_and_corrections_name_the_answer(gateway: tuple[Gateway, Client]) -> None:
    servicer, client = gateway
    await client.rate("secret", "m", up=False)
    await client.correct("secret", "m", "better")
    thumb, correction = servicer.submitted
    assert (thumb.message_id, thumb.WhichOneof("value"), thumb.thumb.up) == ("m", "thumb", False)
    assert (correction.message_id, correction.correction.text) == ("m", "better")
    assert 1 <= len(thumb.request_id) <= 64
    assert thumb.request_id != correction.request_id


async def test_transient_error_is_retried_with_the_same_request_id(
    gateway: tuple[Gateway, Client],
) -> None:
    servicer, client = gateway
    servicer.failures = [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert (await client.ask("secret", "Hello?")).text == "Hello there."
    assert len(servicer.turns) == 3
    assert len({turn.request_id for turn in servicer.turns}) == 1
    servicer.failures = [grpc.StatusCode.UNAVAILABLE]
    await client.rate("secret", "m", up=True)
    assert len(servicer.submitted) == 2
    assert len({request.request_id for request in servicer.submitted}) == 1


async def test_permanent_error_is_raised_immediately(gateway: tuple[Gateway, Client]) -> None:
    servicer, client = gateway
    servicer.failures = [grpc.StatusCode.INVALID_ARGUMENT]
    with refused(CallFailedError, reason="INVALID_ARGUMENT", limit="") as caught:
        await client.ask("secret", "Hello?")
    assert SAID in caught.value.text
    assert len(servicer.turns) == 1


async def test_retry_respects_the_servers_delay(
    gateway: tuple[Gateway, Client],
) -> None:
    servicer, client = gateway
    servicer.retry_seconds, servicer.failures = 0.4, [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    await client.rate("secret", "m", up=True)
    waits = [later - sooner for sooner, later in pairwise(servicer.asked_at)]
    assert len(waits) == 2
    assert min(waits) >= 0.4


async def test_exhausted_retries_report_the_limit(
    gateway: tuple[Gateway, Client],
) -> None:
    servicer, client = gateway
    servicer.retry_seconds, servicer.failures = 0.9, [grpc.StatusCode.RESOURCE_EXHAUSTED] * 100
    with refused(CallFailedError, reason="RESOURCE_EXHAUSTED", limit="3 s") as caught:
        await client.rate("secret", "m", up=True)
    asked, seconds = map(int, re.findall(r"\d+", caught.value.text))
    assert asked == len(servicer.submitted)
    assert seconds <= PATIENCE.seconds
    assert SAID in caught.value.text
    assert 1 < len(servicer.submitted) <= PATIENCE.seconds / servicer.retry_seconds + 1
