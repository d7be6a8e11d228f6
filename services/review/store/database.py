"""Review database: SQLite when embedded, Postgres for replicas, with the same statements.

SQLite is migrated on opening. Postgres is migrated by `python -m services.review migrate`, and an
older schema is refused.
"""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import Counter
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.chassis.database.engine import MIGRATION_SECONDS, disposing, prepare_sqlite
from services.chassis.database.schema import Schema
from services.chassis.database.url import create_private_file
from services.chassis.errors import UnavailableError
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

FAILED = Counter("thumbwheel_review_transactions_failed_total", "Failed database transactions.")

SCHEMA = Schema(
    Path(__file__).parent / "migrations",
    revision_table="review_revision",
    lock=int.from_bytes(b"REVIEW"),
    outdated_text="the review database {url} is at revision {found}, {head} is needed: "
    "run python -m services.review migrate",
)
# SQLAlchemy translates errors of the drivers, but not errors of sockets or timeouts.
UNAVAILABLE = (SQLAlchemyError, OSError)
# SQLAlchemy has no common class for the upserts of the two dialects.
INSERTS: Mapping[str, Callable[[Table], Any]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
# Erased rows are overwritten in the file. An acknowledged vote survives a power loss: EXTRA also
# syncs the folder after the deletion of the rollback journal, without which the journal may come
# back and undo the transaction.
PRAGMAS = ("foreign_keys=ON", "secure_delete=ON", "synchronous=EXTRA")


@asynccontextmanager
async def open_database(
    url: str, *, wait_seconds: float = 3.0, connections: int = 5
) -> AsyncIterator[AsyncEngine]:
    """Connect to the database during the block.

    Args:
        url: SQLAlchemy URL, `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.
        wait_seconds: longest wait for a connection, an answer of Postgres, or a lock of SQLite;
            a SQLite file that another process migrates is waited for longer.
        connections: size of the connection pool with Postgres.

    Raises:
        SchemaRevisionError: the schema is too old; the error names the migration command.
        UnavailableError: the database does not answer.
    """
    if url.startswith("sqlite"):
        await migrate(url)
    async with disposing(_engine(url, wait_seconds, connections)) as engine:
        async with transaction(engine) as connection:
            await connection.run_sync(SCHEMA.needs_upgrade)
        yield engine


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Run the block in a transaction.

    Raises:
        UnavailableError: the database failed, and nothing was stored.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except UNAVAILABLE as error:
        FAILED.inc()
        log.warning("database transaction failed", extra=fields(error=type(error).__name__))
        raise UnavailableError(
            "the review database does not answer",
            reason="REVIEW_DATABASE_UNAVAILABLE",
            retry_seconds=1,
        ) from error


async def insert_new(
    connection: AsyncConnection, target: Table, values: Mapping[str, object]
) -> bool:
    """Insert a row unless one with the same key exists; return True if inserted."""
    insert = INSERTS[connection.dialect.name]
    done = await connection.execute(insert(target).values(**values).on_conflict_do_nothing())
    return bool(done.rowcount == 1)


async def migrate(url: str) -> tuple[str, str]:
    """Create or migrate a database. Returns the revisions before and after ("" if empty).

    Raises:
        UnavailableError: the database is unavailable.
    """
    async with (
        disposing(_engine(url, MIGRATION_SECONDS, 1)) as engine,
        transaction(engine) as connection,
    ):
        return await connection.run_sync(SCHEMA.upgrade)


def _engine(url: str, wait_seconds: float, connections: int) -> AsyncEngine:
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        create_private_file(made)
        # SQLite has one writer, and a connection that reads before it writes could not wait for
        # another: one connection makes transactions wait in the pool.
        engine = create_async_engine(
            made,
            pool_size=1,
            max_overflow=0,
            pool_timeout=wait_seconds,
            hide_parameters=True,
            connect_args={"timeout": wait_seconds},
        )
        prepare_sqlite(engine.sync_engine, "BEGIN IMMEDIATE", PRAGMAS)
        return engine
    waits: dict[str, Any] = {"timeout": wait_seconds, "command_timeout": wait_seconds}
    return create_async_engine(
        made,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=wait_seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args=waits,
    )
