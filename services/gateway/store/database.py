"""Database of the gateway: SQLite when embedded, Postgres for replicas, with the same statements.

SQLite is migrated on opening. Postgres is migrated by `python -m services.gateway migrate`, and an
older schema is refused.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.chassis.database.engine import MIGRATION_SECONDS, disposing, prepare_sqlite
from services.chassis.database.schema import Schema
from services.chassis.database.url import create_private_file
from services.chassis.errors import UnavailableError

SCHEMA = Schema(
    Path(__file__).parent / "migrations",
    revision_table="alembic_version",
    lock=0x7477_6761,
    outdated_text="the gateway's database {url} is at revision {found}, {head} is needed: "
    "run python -m services.gateway migrate",
    unversioned_table="api_keys",
)
# SQLAlchemy translates errors of the drivers, but not errors of sockets or timeouts.
UNAVAILABLE = (SQLAlchemyError, OSError)
# Shortest wait for a lock of SQLite, which the command `keys` may hold.
LOCK_SECONDS = 5.0


@asynccontextmanager
async def open_database(
    url: str, *, wait_seconds: float = 3.0, connections: int = 5
) -> AsyncIterator[AsyncEngine]:
    """Connect to the database during the block.

    Args:
        url: SQLAlchemy URL, `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.
        wait_seconds: Longest wait for an answer of Postgres. A SQLite file that another process
            migrates is waited for longer.
        connections: Size of the connection pool.

    Raises:
        SchemaRevisionError: The schema is too old. The error names the migration command.
        UnavailableError: The database does not answer.
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
        UnavailableError: The database failed. Authentication then fails with a clear reason.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except UNAVAILABLE as error:
        raise UnavailableError(
            "the gateway's database does not answer", reason="DATABASE_UNAVAILABLE", retry_seconds=1
        ) from error


async def migrate(url: str) -> tuple[str, str]:
    """Create or migrate a database. Returns the revisions before and after ("" if empty).

    Raises:
        UnavailableError: The database is unavailable.
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
        # A file has many readers, so the pool and the transactions are those of the driver.
        seconds = max(wait_seconds, LOCK_SECONDS)
        engine = create_async_engine(made, connect_args={"timeout": seconds})
        # A new or revoked key survives power loss: without EXTRA the folder is not synced after the
        # deletion of the rollback journal, which may come back and undo the transaction.
        prepare_sqlite(engine.sync_engine, None, ("synchronous=EXTRA",))
        return engine
    waits: dict[str, Any] = {"timeout": wait_seconds, "command_timeout": wait_seconds}
    return create_async_engine(
        made,
        pool_size=connections,
        pool_timeout=wait_seconds,
        pool_pre_ping=True,
        connect_args=waits,
    )
