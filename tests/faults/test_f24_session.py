"""F24: lost commit replies, deadlocks and serialization failures cause a retry and no duplicate."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client import REGISTRY
from thumbwheel.session.v1 import session_pb2

from infra.simulate.faults.postgres import CommitFault, CommitProxy
from tests.services.session.replicas import foreign_connection
from tests.services.session.service import (
    ADA,
    FakeFeedback,
    Home,
    begin,
    feedback_service,
    finish,
    read_messages,
    session_service,
    talk,
)


@dataclass
class FaultySession:
    """A replica with failing commits, an intact one, and a conversation with one turn."""

    proxy: CommitProxy
    stub: Any
    sound: Any
    feedback: FakeFeedback
    conversation_id: str = ""
    answer_id: str = ""

    async def messages(self, conversation_id: str) -> list[Any]:
        return list(await read_messages(self.sound, conversation_id))

    async def conversations(self) -> set[str]:
        request = session_pb2.ListConversationsRequest()
        page = await self.sound.ListConversations(request, timeout=5, metadata=ADA)
        return {found.id for found in page.conversations}

    async def call(self, method: str, request: Any) -> Any:
        return await getattr(self.stub, method)(request, timeout=5, metadata=ADA)


@asynccontextmanager
async def faulty_session(home: Home) -> AsyncIterator[FaultySession]:
    server_port = urlsplit(home.database_url).port or 0
    feedback = FakeFeedback()
    with CommitProxy(server_port) as proxy:
        url = home.database_url.replace(f":{server_port}/", f":{proxy.port}/")
        async with (
            feedback_service(feedback) as port,
            # The relay does not poll, so the failing commits belong to calls only.
            session_service(
                replace(home, database_url=url), relay_poll_seconds=60, relay_linger_seconds=5
            ) as stub,
            session_service(home, feedback_target=f"127.0.0.1:{port}") as sound,
        ):
            turn = await talk(sound, "hello", "hi")
            yield FaultySession(
                proxy, stub, sound, feedback, turn.conversation_id, turn.assistant_message_id
            )


async def new_conversation(session: FaultySession, request_id: str = "") -> None:
    turn = await session.call("BeginTurn", begin("new", request_id=request_id))
    assert not turn.replayed
    assert await session.conversations() == {session.conversation_id, turn.conversation_id}
    ids = [message.id for message in await session.messages(turn.conversation_id)]
    assert ids == [turn.user_message_id, turn.assistant_message_id]


async def new_conversation_with_a_request_id(session: FaultySession) -> None:
    await new_conversation(session, "r")


async def another_turn(session: FaultySession) -> None:
    turn = await session.call("BeginTurn", begin("more", conversation_id=session.conversation_id))
    assert [message.text for message in turn.context] == ["hello", "hi", "more"]
    ids = [message.id for message in await session.messages(session.conversation_id)]
    assert ids[2:] == [turn.user_message_id, turn.assistant_message_id]


async def another_answer(session: FaultySession) -> None:
    turn = await session.call("BeginTurn", begin(regenerate_message_id=session.answer_id))
    assert [message.id for message in await session.messages(session.conversation_id)][2:] == [
        turn.assistant_message_id
    ]


async def the_end_of_a_turn(session: FaultySession) -> None:
    turn = await session.sound.BeginTurn(
        begin("more", conversation_id=session.conversation_id), timeout=5, metadata=ADA
    )
    await session.call("FinishTurn", finish(turn.assistant_message_id, "yes"))
    assert [message.text for message in await session.messages(session.conversation_id)] == [
        "hello",
        "hi",
        "more",
        "yes",
    ]
    async with asyncio.timeout(10):
        while len(session.feedback.turns) < 2:
            await asyncio.sleep(0.02)
    assert [event.message_id for event in session.feedback.turns] == [
        session.answer_id,
        turn.assistant_message_id,
    ]


async def clearing(session: FaultySession) -> None:
    await session.call(
        "ClearConversation",
        session_pb2.ClearConversationRequest(conversation_id=session.conversation_id),
    )
    assert await session.messages(session.conversation_id) == []
    await _one_erasure(session)


async def deleting(session: FaultySession) -> None:
    await session.call(
        "DeleteConversation",
        session_pb2.DeleteConversationRequest(conversation_id=session.conversation_id),
    )
    assert await session.conversations() == set()
    await _one_erasure(session)


async def erasing_the_user(session: FaultySession) -> None:
    erased = await session.call("EraseUser", session_pb2.EraseUserRequest())
    assert erased.removed_conversations == 1
    assert await session.conversations() == set()
    await _one_erasure(session)


async def _one_erasure(session: FaultySession) -> None:
    async with asyncio.timeout(10):
        while not any(event.erased for event in session.feedback.turns):
            await asyncio.sleep(0.02)
    assert [event.message_id for event in session.feedback.turns if event.erased] == [
        session.answer_id
    ]


CALLS: list[Callable[[FaultySession], Awaitable[None]]] = [
    new_conversation,
    new_conversation_with_a_request_id,
    another_turn,
    another_answer,
    the_end_of_a_turn,
    clearing,
    deleting,
    erasing_the_user,
]


# One run per commit would add little for the rest.
EVERY_COMMIT = {(CommitFault.LATE, new_conversation), (CommitFault.LATE, another_turn)} | {
    (CommitFault.ANSWER_LOST, call) for call in CALLS
}


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        pytest.param(
            kind,
            call,
            id=f"{kind.name.lower()}-{call.__name__}",
            marks=() if (kind, call) in EVERY_COMMIT else pytest.mark.long,
        )
        for kind, call in itertools.product(CommitFault, CALLS)
    ],
)
async def test_f24_lost_connection_at_commit_changes_no_result(
    postgres_home: Home,
    kind: CommitFault,
    call: Callable[[FaultySession], Awaitable[None]],
    record_property: Any,
) -> None:
    async with faulty_session(postgres_home) as session:
        session.proxy.planned.extend([kind, kind])
        await call(session)
    assert session.proxy.counts[kind] >= 1
    record_property("fired", session.proxy.counts[kind])


async def test_f24_deadlock_victim_is_retried(postgres_home: Home) -> None:
    before = repeated_transactions()
    async with session_service(postgres_home) as stub, foreign_connection(postgres_home) as foreign:
        first, second = sorted(
            [(await talk(stub, text, "hi")).conversation_id for text in ("one", "two")]
        )
        lock = "SELECT FROM conversations WHERE id = $1 FOR UPDATE"
        async with foreign.transaction():
            await foreign.execute(lock, second)
            erasing = asyncio.ensure_future(
                stub.EraseUser(session_pb2.EraseUserRequest(), timeout=5, metadata=ADA)
            )
            await asyncio.sleep(0.3)
            await foreign.execute(lock, first)
        assert (await erasing).removed_conversations == 2
    assert repeated_transactions() > before


async def test_f24_serialization_failure_is_retried(postgres_home: Home) -> None:
    before = repeated_transactions()
    async with foreign_connection(postgres_home) as foreign:
        # A sequence is not transactional. The first two inserts fail and their retries succeed.
        await foreign.execute("""
            CREATE SEQUENCE tries;
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('tries') <= 2 THEN
                    RAISE EXCEPTION USING ERRCODE = 'serialization_failure';
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER fail BEFORE INSERT ON messages
                FOR EACH STATEMENT EXECUTE FUNCTION fail();
        """)
    async with session_service(postgres_home) as stub:
        turn = await talk(stub, "hello", "hi")
        request = session_pb2.GetConversationRequest(conversation_id=turn.conversation_id)
        stored = await stub.GetConversation(request, timeout=5, metadata=ADA)
    assert [message.text for message in stored.messages] == ["hello", "hi"]
    assert repeated_transactions() == before + 2


def repeated_transactions() -> float:
    name, labels = "thumbwheel_session_work_run_again_total", {"reason": "SESSION_DATABASE_BUSY"}
    return REGISTRY.get_sample_value(name, labels) or 0.0
