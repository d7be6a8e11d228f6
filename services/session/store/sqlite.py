"""Sessions database in SQLite.

A transaction runs in one thread, because the asynchronous driver changes threads four times per
statement. SQLite has one writer, so all writes share one thread. Each commit is synced.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from sqlite3 import OperationalError as DriverError

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import OperationalError

from services.chassis.database.engine import prepare_sqlite, truncate_log
from services.chassis.database.url import create_private_file
from services.chassis.errors import UnavailableError
from services.session.store.database import ResultT, Work

PRAGMAS = (
    "journal_mode=WAL",
    "foreign_keys=ON",
    "busy_timeout=10000",
    "temp_store=MEMORY",
    "secure_delete=ON",
)
RETRY_SECONDS = 1.0


class SqliteDatabase:
    """Implementation of `database.Database` with a SQLite file."""

    def __init__(self, url: str, connections: int) -> None:
        create_private_file(url)
        # A stored message and its row of the outbox survive power loss.
        self._writer = _engine(url, 1, "BEGIN IMMEDIATE", "synchronous=FULL")
        self._reader = _engine(url, connections, "BEGIN", "query_only=ON")
        self._writing = ThreadPoolExecutor(1, "session-write")
        self._reading = ThreadPoolExecutor(connections, "session-read")

    async def read(self, work: Work[ResultT]) -> ResultT:
        """Implement `Database.read` with a read-only connection."""
        return await asyncio.get_running_loop().run_in_executor(
            self._reading, _transaction, self._reader, work
        )

    async def write(self, work: Work[ResultT]) -> ResultT:
        """Implement `Database.write` with the connection for writes."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writing, _transaction, self._writer, work
        )

    async def erase(self, work: Work[ResultT]) -> ResultT:
        """Implement `Database.erase` and truncate the write-ahead log of SQLite."""
        return await asyncio.get_running_loop().run_in_executor(
            self._writing, _transaction_with_checkpoint, self._writer, work
        )

    async def close(self) -> None:
        """Wait for running transactions, then disconnect."""
        for pool in (self._writing, self._reading):
            await asyncio.to_thread(pool.shutdown)
        for engine in (self._writer, self._reader):
            engine.dispose()


@asynccontextmanager
async def open_sqlite(url: str, connections: int) -> AsyncIterator[SqliteDatabase]:
    """Open the file that the URL names and create its folder; close the file at the end."""
    database = SqliteDatabase(url, connections)
    try:
        yield database
    finally:
        await database.close()


def _engine(url: str, connections: int, begin: str, *pragmas: str) -> Engine:
    # The pool gives a connection to one thread at a time, but not always to the same thread.
    engine = create_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"check_same_thread": False},
    )
    prepare_sqlite(engine, begin, (*PRAGMAS, *pragmas))
    return engine


def _transaction_with_checkpoint(engine: Engine, work: Work[ResultT]) -> ResultT:
    """Run a transaction and truncate the write-ahead log of SQLite."""
    result = _transaction(engine, work)
    try:
        is_truncated = truncate_log(engine)
    except DriverError as error:
        raise _unavailable() from error
    if not is_truncated:
        raise _unavailable()
    return result


def _transaction(engine: Engine, work: Work[ResultT]) -> ResultT:
    try:
        with engine.begin() as connection:
            return work(connection)
    except OperationalError as error:
        # Locked for longer than busy_timeout, disk full, or file read-only. Nothing was stored.
        raise _unavailable() from error


def _unavailable() -> UnavailableError:
    return UnavailableError(
        "the sessions database did not complete the transaction",
        reason="SESSION_DATABASE_AWAY",
        retry_seconds=RETRY_SECONDS,
    )
