"""Database of the gateway: SQLite when embedded, Postgres for replicas, with the same statements.

SQLite is migrated on opening. Postgres is migrated by `python -m services.gateway migrate`, and an
older schema is refused.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
# Files of migrations/versions, oldest first. Listed here to avoid loading Alembic when the database
# is current.
REVISIONS = ("0001", "0002", "0003")
# SQLAlchemy translates errors of the drivers, but not errors of sockets or timeouts.
UNAVAILABLE = (SQLAlchemyError, OSError)
# Advisory lock of migrations, because Postgres has no lock on a schema.
MIGRATION_LOCK = 0x7477_6761


@asynccontextmanager
async def open_database(
    url: str, *, wait_seconds: float = 3.0, connections: int = 5
) -> AsyncIterator[AsyncEngine]:
    """Connect to the database during the block.

    Args:
        url: SQLAlchemy URL, `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.
        wait_seconds: Longest wait for an answer of Postgres.
        connections: Size of the connection pool.

    Raises:
        SchemaRevisionError: The schema is too old. The error names the migration command.
        UnavailableError: The database does not answer.
    """
    engine = _engine(url, wait_seconds, connections)
    try:
        await _require_current(engine)
        yield engine
    finally:
        await engine.dispose()


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
    engine = _engine(url, 60.0, 1)
    try:
        async with transaction(engine) as connection:
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def redacted_url(url: str | URL) -> str:
    """Return the URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def missing_file(url: str) -> Path | None:
    """Return the file of an SQLite database if missing, otherwise None."""
    made = make_url(url)
    if made.get_backend_name() != "sqlite" or not made.database:
        return None
    file = Path(made.database).absolute()
    return None if file.exists() else file


def _engine(url: str, wait_seconds: float, connections: int) -> AsyncEngine:
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        file = Path(made.database or "").absolute()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            # SQLite would create the file readable by all users.
            file.touch(mode=0o600)
        return create_async_engine(made)
    waits: dict[str, Any] = {"timeout": wait_seconds, "command_timeout": wait_seconds}
    return create_async_engine(
        made,
        pool_size=connections,
        pool_timeout=wait_seconds,
        pool_pre_ping=True,
        connect_args=waits,
    )


async def _require_current(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        revision = await connection.run_sync(_revision)
    if revision == REVISIONS[-1]:
        return
    if revision not in ("", *REVISIONS):
        # During a rollout, the newer program migrates the database first.
        log.warning("database is newer than this program", extra=fields(revision=revision))
    elif engine.dialect.name == "sqlite":
        async with transaction(engine) as connection:
            await connection.run_sync(_upgrade)
    else:
        raise SchemaRevisionError(
            f"the gateway's database {redacted_url(engine.url)} is at revision "
            f"{revision or 'none'}, {REVISIONS[-1]} is needed: "
            "run python -m services.gateway migrate",
            field="database_url",
            limit=REVISIONS[-1],
        )


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def _upgrade(connection: Connection) -> tuple[str, str]:
    # Imported here, because loading is slow and rarely needed.
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
    else:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
    before = _revision(connection)
    if before in ("", *REVISIONS[:-1]):
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        if not before and inspect(connection).has_table("api_keys"):
            # Database from the time before revisions.
            command.stamp(config, "0001")
        command.upgrade(config, "head")
    return before, _revision(connection)
