"""Connections to the sessions database. All that is particular to SQLite is here.

SQLite has one writer: one connection, whose pool is the queue. A second writer syncs its commits to the disk, for erasures.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.session.tables import metadata

PRAGMAS = ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=10000", "temp_store=MEMORY", "secure_delete=ON")
WRITER_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Engines:
    """`eraser` survives a power loss with its commit; with Postgres all three are one."""

    writer: AsyncEngine
    eraser: AsyncEngine
    reader: AsyncEngine


@asynccontextmanager
async def open_database(url: str, reader_connections: int) -> AsyncIterator[Engines]:
    """Connect, create what is missing of the schema, and close at the end."""
    engines = _sqlite(url, reader_connections) if url.startswith("sqlite") else _server(url, reader_connections)
    async with engines.writer.begin() as connection:
        await connection.run_sync(metadata.create_all)
    try:
        yield engines
    finally:
        for engine in {engines.writer, engines.eraser, engines.reader}:
            await engine.dispose()


def _server(url: str, reader_connections: int) -> Engines:
    engine = create_async_engine(url, pool_size=reader_connections, pool_pre_ping=True)
    return Engines(engine, engine, engine)


def _sqlite(url: str, reader_connections: int) -> Engines:
    Path(make_url(url).database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
    return Engines(
        writer=_sqlite_engine(url, 1, "BEGIN IMMEDIATE", "synchronous=NORMAL"),
        eraser=_sqlite_engine(url, 1, "BEGIN IMMEDIATE", "synchronous=FULL"),
        reader=_sqlite_engine(url, reader_connections, "BEGIN", "query_only=ON"),
    )


def _sqlite_engine(url: str, connections: int, begin: str, *pragmas: str) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=connections, max_overflow=0, pool_timeout=WRITER_WAIT_SECONDS)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # The driver would begin a transaction by itself, late and deferred; we say when and how.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (*PRAGMAS, *pragmas):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
