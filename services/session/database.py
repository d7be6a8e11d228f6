"""The sessions database behind an asynchronous face. All that is particular to SQLite is here.

A transaction is one piece of work in one thread: the asynchronous driver hops between threads four times a statement. SQLite
has one writer, so its writes share one thread; erasures use a connection of their own that syncs its commits to the disk.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import IntegrityError

from services.session.tables import metadata

PRAGMAS = ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=10000", "temp_store=MEMORY", "secure_delete=ON")
# Two writers of one Postgres database can collide on a request id or a position; the second then sees what the first stored.
ATTEMPTS = 3

ResultT = TypeVar("ResultT")
Work = Callable[[Connection], ResultT]


class Database:
    """Runs work on connections; with Postgres the three engines are one."""

    def __init__(
        self, writer: Engine, eraser: Engine, reader: Engine, writer_threads: int, reader_threads: int
    ) -> None:
        self._writer = writer
        self._eraser = eraser
        self._reader = reader
        self._writing = ThreadPoolExecutor(writer_threads, "session-write")
        self._reading = ThreadPoolExecutor(reader_threads, "session-read")

    async def read(self, work: Work[ResultT]) -> ResultT:
        """Run work that only reads, on one snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, _transaction, self._reader, work)

    async def write(self, work: Work[ResultT]) -> ResultT:
        """All of the work is stored, or nothing. A caller that goes away changes neither; a collision runs it again."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, _transaction, self._writer, work)

    async def erase(self, work: Work[ResultT]) -> ResultT:
        """As write, and safe from a power loss when it returns."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, _transaction, self._eraser, work)

    async def close(self) -> None:
        """Let running work end, then disconnect."""
        for pool in (self._writing, self._reading):
            await asyncio.to_thread(pool.shutdown)
        for engine in {self._writer, self._eraser, self._reader}:
            engine.dispose()


@asynccontextmanager
async def open_database(url: str, connections: int) -> AsyncIterator[Database]:
    """Connect, create what is missing of the schema, and close at the end."""
    database = _sqlite(url, connections) if url.startswith("sqlite") else _server(url, connections)
    try:
        await database.write(metadata.create_all)
        yield database
    finally:
        await database.close()


def _server(url: str, connections: int) -> Database:
    engine = create_engine(url, pool_size=2 * connections, max_overflow=0, pool_pre_ping=True)
    return Database(engine, engine, engine, connections, connections)


def _sqlite(url: str, connections: int) -> Database:
    Path(make_url(url).database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
    return Database(
        writer=_sqlite_engine(url, 1, "BEGIN IMMEDIATE", "synchronous=NORMAL"),
        eraser=_sqlite_engine(url, 1, "BEGIN IMMEDIATE", "synchronous=FULL"),
        reader=_sqlite_engine(url, connections, "BEGIN", "query_only=ON"),
        writer_threads=1,
        reader_threads=connections,
    )


def _sqlite_engine(url: str, connections: int, begin: str, *pragmas: str) -> Engine:
    # The pool hands a connection to one thread at a time, which may be another one each time.
    engine = create_engine(url, pool_size=connections, max_overflow=0, connect_args={"check_same_thread": False})

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


def _transaction(engine: Engine, work: Work[ResultT]) -> ResultT:
    for attempt in range(ATTEMPTS):
        try:
            with engine.begin() as connection:
                return work(connection)
        except IntegrityError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the loop returns or raises")
