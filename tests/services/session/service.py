"""The session service with its real wiring on a real port, and a fake feedback service."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1.sample_pb2 import Sample
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.errors import from_rpc
from services.chassis.identity import Caller
from services.chassis.server import Registration, serving
from services.chassis.settings import ServiceSettings
from services.contracts.chat import FinishReason, Role
from services.session.__main__ import wiring
from services.session.message import Message
from services.session.settings import SessionSettings
from services.session.store.database import DatabaseLimits
from services.session.store.schema import open_database
from services.session.store.store import Store
from tests.services.session.tokenizer import write_tokenizer

ADA = (("x-tw-tenant", "acme"), ("x-tw-user", "ada"))
BOB = (("x-tw-tenant", "acme"), ("x-tw-user", "bob"))
OTHER_ADA = (("x-tw-tenant", "umbrella"), ("x-tw-user", "ada"))
PRINCIPAL_KEY = "a key for tests only"
LIMITS = DatabaseLimits(
    connections=4, pool_seconds=2.0, lock_seconds=2.0, statement_seconds=3.0, work_seconds=4.5
)
UNKNOWN_ID = "01900000-0000-7000-8000-000000000000"


@dataclass
class FakeFeedback(feedback_pb2_grpc.FeedbackLogServiceServicer):
    """Fake feedback service; records turns in the order of arrival.

    Each entry of `failures` fails a call: "before" or "after" the write, or "hang".
    """

    turns: list[events_pb2.TurnEvent] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)

    async def AppendTurns(self, request: Any, context: Any) -> feedback_pb2.AppendTurnsResponse:
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "hang":
            self.hanging.set()
            await asyncio.sleep(3_600)
        if failure == "before":
            await context.abort(grpc.StatusCode.INTERNAL, "down")
        self.turns.extend(request.turns)
        if failure == "after":
            await context.abort(grpc.StatusCode.INTERNAL, "down after the write")
        return feedback_pb2.AppendTurnsResponse()

    async def RecordFeedback(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def ListSegments(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def CountThumbs(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def GetThumbs(self, request: Any, context: Any) -> Any:
        raise NotImplementedError


@asynccontextmanager
async def feedback_service(feedback: FakeFeedback, port: int = 0) -> AsyncIterator[int]:
    add = feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server
    name = "thumbwheel.feedback.v1.FeedbackLogService"
    settings = ServiceSettings.model_validate(
        {"port": port, "drain_seconds": 0, "lame_duck_seconds": 0}
    )
    async with serving(settings, [Registration(name, add, feedback)]) as bound:
        yield bound


@dataclass(frozen=True)
class Home:
    """Folder for the files and database for the rows of a test."""

    directory: Path
    database_url: str


def session_settings(home: Home, **changes: Any) -> SessionSettings:
    values = {
        "port": 0,
        "metrics_port": 0,
        "drain_seconds": 0,
        "lame_duck_seconds": 0,
        "database_url": home.database_url,
        "principal_key": PRINCIPAL_KEY,
        "tokenizer_file": write_tokenizer(home.directory),
        "context_tokens": 64,
        "reply_tokens": 14,
        "template_tokens": 2,
        "message_overhead_tokens": 2,
        "relay_poll_seconds": 0.05,
        "relay_lease_seconds": 0.3,
        "relay_max_backoff_seconds": 0.1,
        "feedback_target": "127.0.0.1:1",
    }
    return SessionSettings.model_validate(values | changes)


@asynccontextmanager
async def session_service(home: Home, **changes: Any) -> AsyncIterator[Any]:
    """Run the service and yield a client stub."""
    settings = session_settings(home, **changes)
    async with (
        wiring(settings) as registrations,
        serving(settings, registrations) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield session_pb2_grpc.SessionServiceStub(channel)


# Unlikely values, to be found in files of a database.
SAMPLE = Sample(token_ids=[262143, 7, 1], log_probs=[-0.7312, -0.2519, -0.0137])


def begin(text: str = "", **fields: Any) -> session_pb2.BeginTurnRequest:
    if text:
        fields["user"] = session_pb2.UserMessage(original_text=text, text=text)
    return session_pb2.BeginTurnRequest(**fields)


def finish(
    message_id: str, text: str = "an answer", **fields: Any
) -> session_pb2.FinishTurnRequest:
    values: dict[str, Any] = {
        "finish_reason": chat_pb2.FINISH_REASON_STOP,
        "model_version": "v1",
        "arm": "stable",
        "assignment_probability": 1.0,
        "temperature": 0.5,
        "top_p": 0.5,
        "sample": SAMPLE,
    }
    return session_pb2.FinishTurnRequest(
        assistant_message_id=message_id, text=text, **(values | fields)
    )


async def talk(
    stub: Any, question: str, answer: str, conversation_id: str = "", **fields: Any
) -> Any:
    """Begin and finish a turn of the user Ada."""
    turn = await stub.BeginTurn(
        begin(question, conversation_id=conversation_id, **fields), timeout=5, metadata=ADA
    )
    await stub.FinishTurn(finish(turn.assistant_message_id, answer), timeout=5, metadata=ADA)
    return turn


async def error_of(call: Any) -> tuple[grpc.StatusCode, str, str, str]:
    """Return code, reason, field and limit of a failing call."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        ours = from_rpc(error, "session")
        return error.code(), ours.reason, ours.field, ours.limit
    raise AssertionError("the call succeeded")


async def read_messages(stub: Any, conversation_id: str, **call: Any) -> list[chat_pb2.Message]:
    """Return all messages of a conversation, oldest first, page by page."""
    request = session_pb2.GetConversationRequest(conversation_id=conversation_id, page_size=100)
    found: list[chat_pb2.Message] = []
    while True:
        page = await stub.GetConversation(request, **{"timeout": 5, "metadata": ADA, **call})
        found = [*page.messages, *found]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def store_answers(home: Home, conversation_id: str, texts: Sequence[str]) -> None:
    """Add answers of Ada's conversation to the database, without the limits of a request."""
    new = [
        Message(
            id=str(uuid.uuid4()),
            conversation_id=conversation_id,
            text=text,
            position=10 + number,
            tokens=1,
            create_us=1,
            role=Role.ASSISTANT,
            finish_reason=FinishReason.STOP,
        )
        for number, text in enumerate(texts)
    ]
    async with open_database(home.database_url, LIMITS) as database:
        owner = Caller("acme", "ada")
        await Store(database).write(owner, lambda rows: rows.add_messages(new))
