"""The sessions database in SQLite. All that is particular to it is here.

A transaction is one piece of work in one thread: the asynchronous driver hops between threads four
times a statement. SQLite has one writer, so its writes share one thread; erasures use a connection
of their own that syncs its commits to the disk.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from sqlite3 import OperationalError as DriverError
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError

from services.chassis.errors import UnavailableError
from services.session.database import ResultT, Work

PRAGMAS = (
    "journal_mode=WAL",
    "foreign_keys=ON",
    "busy_timeout=10000",
    "temp_store=MEMORY",
    "secure_delete=ON",
)
RETRY_SECONDS = 1.0


class SqliteDatabase:
    """See `database.Database`."""

    def __init__(self, url: str, connections: int) -> None:
        Path(make_url(url).database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
        self._writer = _engine(url, 1, "BEGIN IMMEDIATE", "synchronous=NORMAL")
        self._eraser = _engine(url, 1, "BEGIN IMMEDIATE", "synchronous=FULL")
        self._reader = _engine(url, connections, "BEGIN", "query_only=ON")
        self._writing = ThreadPoolExecutor(1, "session-write")
        self._reading = ThreadPoolExecutor(connections, "session-read")

    async def read(self, work: Work[ResultT]) -> ResultT:
        """See `database.Database`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._reading, _transaction, self._reader, work
        )

    async def write(self, work: Work[ResultT]) -> ResultT:
        """See `database.Database`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writing, _transaction, self._writer, work
        )

    async def erase(self, work: Work[ResultT]) -> ResultT:
        """See `database.Database`."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writing, _erasure, self._eraser, work
        )

    async def close(self) -> None:
        """Let running work end, then disconnect."""
        for pool in (self._writing, self._reading):
            await asyncio.to_thread(pool.shutdown)
        for engine in (self._writer, self._eraser, self._reader):
            engine.dispose()


@asynccontextmanager
async def open_sqlite(url: str, connections: int) -> AsyncIterator[SqliteDatabase]:
    """The file that the URL names, with its folder; closed at the end."""
    database = SqliteDatabase(url, connections)
    try:
        yield database
    finally:
        await database.close()


def _engine(url: str, connections: int, begin: str, *pragmas: str) -> Engine:
    # The pool hands a connection to one thread at a time, which may be another one each time.
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver would begin a transaction by itself, late and deferred; we say when and how.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (*PRAGMAS, *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _erasure(engine: Engine, work: Work[ResultT]) -> ResultT:
    """What was removed is taken out of the write-ahead log too, which keeps old pages otherwise
    until others take their place.
    """
    done = _transaction(engine, work)
    connection = engine.raw_connection()
    try:
        (busy, _, _) = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except DriverError as error:
        raise _away() from error
    finally:
        connection.close()
    if busy:
        raise _away()
    return done


def _transaction(engine: Engine, work: Work[ResultT]) -> ResultT:
    """Locked for longer than busy_timeout, a full disk, a read-only file: whatever it was, nothing
    was stored.
    """
    try:
        with engine.begin() as connection:
            return work(connection)
    except OperationalError as error:
        raise _away() from error


def _away() -> UnavailableError:
    return UnavailableError(
        "the sessions database did not do it",
        reason="SESSION_DATABASE_AWAY",
        retry_seconds=RETRY_SECONDS,
    )
