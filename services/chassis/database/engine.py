"""Engines: the connections of SQLite, and the disposal of engines for asyncio.

Pools and time limits are those of each service, because their callers wait differently.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

# Longest wait of a migration for another process that migrates the same database.
MIGRATION_SECONDS = 60.0


def prepare_sqlite(engine: Engine, begin: str | None, pragmas: Sequence[str]) -> None:
    """Set pragmas on each new connection, and begin each transaction with the statement `begin`.

    Without `begin` the driver begins transactions itself, late and DEFERRED, and reads outside of
    them.
    """

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        if begin is not None:
            connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    if begin is None:
        return

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)


def truncate_log(engine: Engine) -> bool:
    """Truncate the write-ahead log of SQLite, because the log contains deleted data.

    Returns False while a reader blocks the truncation.
    """
    connection = engine.raw_connection()
    try:
        (busy, _, _) = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.close()
    return not busy


@asynccontextmanager
async def disposing(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """Close the connections of the engine at the end of the block."""
    try:
        yield engine
    finally:
        await engine.dispose()
