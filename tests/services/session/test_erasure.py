"""Erasure: complete, of one user only, in limited transactions, with erasure records."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import UnavailableError
from services.chassis.identity import Caller
from services.contracts.chat import FinishReason, Role
from services.session.conversations import MAX_CONVERSATIONS, MAX_MESSAGES, Erasure
from services.session.message import Conversation, Message
from services.session.relay import TurnRecorder
from services.session.store.database import Database
from services.session.store.schema import open_database
from services.session.store.store import Store, conversation_row, message_row
from services.session.store.tables import conversations, messages, outbox, turns
from tests.services.session.service import (
    ADA,
    BOB,
    LIMITS,
    OTHER_ADA,
    PRINCIPAL_KEY,
    FakeFeedback,
    Home,
    begin,
    feedback_service,
    finish,
    session_service,
    talk,
)

ERASE = session_pb2.EraseUserRequest()
OWNER = Caller("acme", "ada")


async def test_erasure_removes_only_the_conversations_of_its_user(home: Home) -> None:
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}") as stub,
    ):
        mine = [
            await talk(stub, f"number {number}", "yes", request_id=f"r{number}")
            for number in range(3)
        ]
        for stranger in (BOB, OTHER_ADA):
            turn = await stub.BeginTurn(begin("hello"), timeout=5, metadata=stranger)
            await stub.FinishTurn(finish(turn.assistant_message_id), timeout=5, metadata=stranger)
        assert (await stub.EraseUser(ERASE, timeout=5, metadata=ADA)).removed_conversations == 3
        assert (await stub.EraseUser(ERASE, timeout=5, metadata=ADA)).removed_conversations == 0
        left = [
            len(
                (
                    await stub.ListConversations(
                        session_pb2.ListConversationsRequest(), timeout=5, metadata=who
                    )
                ).conversations
            )
            for who in (ADA, BOB, OTHER_ADA)
        ]
        again = await stub.BeginTurn(begin("number 0", request_id="r0"), timeout=5, metadata=ADA)
        async with asyncio.timeout(10):
            while sum(event.erased for event in feedback.turns) < 3:
                await asyncio.sleep(0.02)
    assert left == [0, 1, 1]
    assert not again.replayed, "idempotency keys are removed with their conversations"
    assert {event.message_id for event in feedback.turns if event.erased} == {
        turn.assistant_message_id for turn in mine
    }


async def test_erased_texts_leave_no_bytes_in_sqlite_or_its_log(tmp_path: Path) -> None:
    def files_with_it() -> set[str]:
        return {file.name for file in tmp_path.rglob("*.db*") if b"canary" in file.read_bytes()}

    home = Home(tmp_path, f"sqlite:///{tmp_path}/sessions.db")
    async with session_service(home) as stub:
        for number in range(3):
            await talk(stub, f"a canary, number {number}", "a canary too", request_id=f"r{number}")
        assert "sessions.db-wal" in files_with_it()
        await stub.EraseUser(ERASE, timeout=5, metadata=ADA)
        assert files_with_it() == set()


class CountingDatabase:
    """Wrapper of a database; counts removed messages per transaction and can fail."""

    def __init__(self, database: Database, fails_after: int = 1_000) -> None:
        self.database = database
        self.removed: list[int] = []
        self.fails_after = fails_after

    async def read(self, work: Any) -> Any:
        return await self.database.read(work)

    async def write(self, work: Any) -> Any:
        return await self.database.write(work)

    async def erase(self, work: Any) -> Any:
        if len(self.removed) == self.fails_after:
            raise UnavailableError("the fake fails")
        before = await self.count(messages)
        done = await self.database.erase(work)
        self.removed.append(before - await self.count(messages))
        return done

    async def count(self, table: Any) -> int:
        return len(
            await self.database.read(lambda connection: connection.execute(select(table)).all())
        )


async def fill(database: Database, sizes: list[int]) -> None:
    """Add one conversation per size, with that number of published answers."""

    def work(connection: Any) -> None:
        for number, size in enumerate(sizes):
            conversation = Conversation(f"{number:036}", "", 0, number, size)
            connection.execute(insert(conversations), conversation_row(conversation, OWNER))
            rows = [
                Message(
                    f"{number:018}{position:018}",
                    conversation.id,
                    "xylophone",
                    position,
                    1,
                    0,
                    Role.ASSISTANT,
                    finish_reason=FinishReason.STOP,
                    model_version="v1",
                )
                for position in range(size)
            ]
            connection.execute(insert(messages), [message_row(message, OWNER) for message in rows])

    await database.write(work)


def erasure_on(database: Any) -> Erasure:
    return Erasure(Store(database), TurnRecorder(PRINCIPAL_KEY), lambda: 0, lambda: None)


async def test_each_transaction_removes_a_limited_number_of_messages(home: Home) -> None:
    half = MAX_MESSAGES // 2
    sizes = [1] * MAX_CONVERSATIONS + [half, half, half, MAX_MESSAGES + 10, 2]
    async with open_database(home.database_url, LIMITS) as database:
        await fill(database, sizes)
        counting = CountingDatabase(database)
        assert await erasure_on(counting).erase_user(OWNER) == len(sizes)
        assert counting.removed == [MAX_CONVERSATIONS, 2 * half, half, MAX_MESSAGES + 10, 2, 0]
        assert await counting.count(conversations) == await counting.count(turns) == 0
        records = await database.read(lambda connection: connection.execute(select(outbox)).all())
        assert len({record.payload for record in records}) == sum(sizes)
        assert not any(re.search(rb"xylophone", record.payload) for record in records)


async def test_interrupted_erasure_continues_on_the_next_call(home: Home) -> None:
    async with open_database(home.database_url, LIMITS) as database:
        await fill(database, [1] * (2 * MAX_CONVERSATIONS + 1))
        with pytest.raises(UnavailableError):
            await erasure_on(CountingDatabase(database, fails_after=1)).erase_user(OWNER)
        counting = CountingDatabase(database)
        assert await counting.count(conversations) == MAX_CONVERSATIONS + 1
        assert await erasure_on(counting).erase_user(OWNER) == MAX_CONVERSATIONS + 1
        assert await counting.count(outbox) == 2 * MAX_CONVERSATIONS + 1
