"""Client of the public gRPC API.

The client uses no internal port or message. Every call may be retried: a turn and a thumb carry a
request id, so a restart in between causes a delay but no duplicate. The result of a call is an
answer or a CallFailedError.
"""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.feedback.v1.events_pb2 import Correction, Thumb

from training.errors import DetailedError

TURN_SECONDS, RATE_SECONDS = 120.0, 20.0
DETAILS_KEY = "grpc-status-details-bin"
# A single task for every message. The recipes evaluate with the same preset, and answers to a
# question differ, so that thumbs can compare them. The preset of question answering yields nearly
# equal answers each time.
TASK = chat_pb2.TASK_CHAT
RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
Result = TypeVar("Result")


class CallFailedError(DetailedError, RuntimeError):
    """A call failed permanently; the message is for the person at the terminal."""

    reason = "FAILED"


@dataclass(frozen=True)
class RetryPolicy:
    """Retry policy for unavailable or overloaded systems.

    `seconds` limits the total time. The backoff doubles from the first to the longest wait.
    """

    seconds: float = 120.0
    first_wait_seconds: float = 0.3
    longest_wait_seconds: float = 10.0


@dataclass(frozen=True)
class MessageTarget:
    """Position of a new message: a new conversation, its newest leaf, or below a parent.

    The id of the conversation as a parent denotes the root.
    """

    conversation_id: str = ""
    parent_message_id: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer, received `seconds` after the request."""

    conversation_id: str
    user_message_id: str
    message_id: str
    model_version: str
    text: str
    finish: "chat_pb2.FinishReason.ValueType"
    seconds: float

    @property
    def refused(self) -> bool:
        """Return True if the guardrail blocked the input or the answer.

        Such an answer is not rated.
        """
        return self.finish in (
            chat_pb2.FINISH_REASON_INPUT_BLOCKED,
            chat_pb2.FINISH_REASON_OUTPUT_BLOCKED,
        )


class Client:
    """Client with a single channel for all users; each call carries the API key of its user.

    All methods raise CallFailedError for a call that failed permanently.
    """

    def __init__(self, channel: grpc.aio.Channel, retry_policy: RetryPolicy) -> None:
        self._chat = chat_pb2_grpc.ChatServiceStub(channel)
        self._feedback = feedback_pb2_grpc.FeedbackServiceStub(channel)
        self._patience = retry_policy

    async def ask(
        self, key: str, text: str, place: MessageTarget | None = None, model: str = ""
    ) -> Answer:
        """Send a message and read the complete answer."""
        where = place or MessageTarget()
        request = self._request(model)
        request.conversation_id, request.parent_message_id = (
            where.conversation_id,
            where.parent_message_id,
        )
        request.input.text = text
        return await self._turn(key, request)

    async def ask_again(self, key: str, answer: Answer) -> Answer:
        """Request another answer to the same message."""
        request = self._request("")
        request.conversation_id = answer.conversation_id
        request.regenerate.message_id = answer.user_message_id
        return await self._turn(key, request)

    async def rate(self, key: str, message_id: str, up: bool) -> None:
        """Submit a thumb and wait for its acknowledgement."""
        await self._submit(
            key, feedback_pb2.SubmitFeedbackRequest(message_id=message_id, thumb=Thumb(up=up))
        )

    async def correct(self, key: str, message_id: str, text: str) -> None:
        """Submit a correction and wait for its acknowledgement."""
        await self._submit(
            key,
            feedback_pb2.SubmitFeedbackRequest(
                message_id=message_id, correction=Correction(text=text)
            ),
        )

    def _request(self, model: str) -> chat_pb2.SendMessageRequest:
        return chat_pb2.SendMessageRequest(request_id=str(uuid.uuid4()), task=TASK, model=model)

    async def _turn(self, key: str, request: chat_pb2.SendMessageRequest) -> Answer:
        return await _with_retries(lambda: self._read(key, request), self._patience)

    async def _read(self, key: str, request: chat_pb2.SendMessageRequest) -> Answer:
        began, started, text, message_id = time.monotonic(), chat_pb2.Started(), "", ""
        finish: chat_pb2.FinishReason.ValueType = chat_pb2.FINISH_REASON_UNSPECIFIED
        async for event in self._chat.SendMessage(
            request, metadata=_metadata(key), timeout=TURN_SECONDS
        ):
            message_id = event.message_id
            match event.WhichOneof("event"):
                case "started":
                    started = event.started
                case "text_delta":
                    text += event.text_delta.text
                case "completed":
                    finish = event.completed.finish_reason
        return Answer(
            conversation_id=started.conversation_id,
            user_message_id=started.user_message_id,
            message_id=message_id,
            model_version=started.model_version,
            text=text.strip(),
            finish=finish,
            seconds=time.monotonic() - began,
        )

    async def _submit(self, key: str, request: feedback_pb2.SubmitFeedbackRequest) -> None:
        request.request_id = str(uuid.uuid4())

        async def submit() -> None:
            await self._feedback.SubmitFeedback(
                request, metadata=_metadata(key), timeout=RATE_SECONDS
            )

        await _with_retries(submit, self._patience)


@asynccontextmanager
async def open_client(
    target: str, retry_policy: RetryPolicy | None = None
) -> AsyncIterator[Client]:
    """Open a client of the gateway at host:port."""
    async with grpc.aio.insecure_channel(target) as channel:
        yield Client(channel, retry_policy or RetryPolicy())


def describe(error: grpc.aio.AioRpcError) -> str:
    """Format an RPC error as a single line."""
    return f"{error.code().name}: {error.details()}"


async def _with_retries(call: Callable[[], Awaitable[Result]], retry_policy: RetryPolicy) -> Result:
    """Retry a call while the system is unavailable, with the server's delay and jittered backoff.

    Raises:
        CallFailedError: another error occurred, or the retry policy is exhausted.
    """
    began, backoff, attempts = time.monotonic(), retry_policy.first_wait_seconds, 0
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            attempts += 1
            if error.code() not in RETRYABLE:
                raise CallFailedError(describe(error), reason=error.code().name) from error
            # The server's retry delay (google.rpc.RetryInfo) is 0 without such a detail.
            retry = error_details_pb2.RetryInfo()
            for key, value in error.trailing_metadata() or ():
                if key == DETAILS_KEY and isinstance(value, bytes):
                    for detail in status_pb2.Status.FromString(value).details:
                        detail.Unpack(retry)
            delay = float(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9)
            wait = delay + backoff * random.uniform(0.5, 1.0)
            if (waited := time.monotonic() - began) + wait > retry_policy.seconds:
                tried = f"asked {attempts} times in {waited:.0f} s"
                raise CallFailedError(
                    f"{describe(error)} ({tried})",
                    reason=error.code().name,
                    limit=f"{retry_policy.seconds:g} s",
                ) from error
        await asyncio.sleep(wait)
        backoff = min(2 * backoff, retry_policy.longest_wait_seconds)


def _metadata(key: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"),)
