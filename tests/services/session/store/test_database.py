"""Guarantees of both databases for transactions."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import Connection, func, insert, select, text

from services.chassis.errors import UnavailableError
from services.session.store.database import Database
from services.session.store.schema import open_database
from services.session.store.tables import outbox
from tests.services.session.service import LIMITS, Home
from tests.support.errors import refused

ROW = {"conversation_id": "c", "refused": False, "erased": False, "payload": b"one"}


@asynccontextmanager
async def opened(home: Home) -> AsyncIterator[Database]:
    async with open_database(home.database_url, LIMITS) as database:
        yield database


def add(connection: Connection) -> None:
    connection.execute(insert(outbox), ROW)


def count(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(outbox)).scalar_one()


def wait(connection: Connection, seconds: float) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_sleep({seconds})"))
    else:
        time.sleep(seconds)


async def test_read_sees_one_snapshot_during_writes(home: Home) -> None:
    counted, written = threading.Event(), threading.Event()

    def twice(connection: Connection) -> tuple[int, int]:
        before = count(connection)
        counted.set()
        while not written.is_set():
            wait(connection, 0.01)
        return before, count(connection)

    async with opened(home) as database:
        reading = asyncio.create_task(database.read(twice))
        while not counted.is_set():
            assert not reading.done()
            await asyncio.sleep(0.01)
        await database.write(add)
        written.set()
        assert await reading == (0, 0)
        assert await database.read(count) == 1


async def test_read_cannot_write(home: Home) -> None:
    sqlite = home.database_url.startswith("sqlite")
    reason = "SESSION_DATABASE_AWAY" if sqlite else "SESSION_DATABASE_READ_ONLY"
    async with opened(home) as database:
        with refused(UnavailableError, reason=reason):
            await database.read(add)
        assert await database.read(count) == 0


async def test_failed_work_stores_nothing(home: Home) -> None:
    class ToldToFailError(Exception):
        pass

    def fail(connection: Connection) -> None:
        add(connection)
        raise ToldToFailError

    async with opened(home) as database:
        for change in (database.write, database.erase):
            with pytest.raises(ToldToFailError):
                await change(fail)
        assert await database.read(count) == 0


async def test_work_completes_after_its_caller_is_cancelled(home: Home) -> None:
    def slowly(connection: Connection) -> None:
        add(connection)
        wait(connection, 0.3)

    async with opened(home) as database:
        writing = asyncio.create_task(database.write(slowly))
        await asyncio.sleep(0.1)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    async with opened(home) as database:
        assert await database.read(count) == 1, "closing waits for running work"
