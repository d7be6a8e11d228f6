"""The gateway's database: SQLite when embedded, Postgres with several replicas, the same statements
for both.

SQLite is migrated when it is opened; Postgres by `python -m services.gateway migrate`, and one that
is behind is refused.
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

from services.chassis.errors import DetailedError, UnavailableError
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
# The files of migrations/versions, oldest first: known here so that a start with nothing to do need
# not load Alembic.
REVISIONS = ("0001", "0002")
# SQLAlchemy translates what drivers raise, but not what the socket says, nor a time-out.
AWAY = (SQLAlchemyError, OSError)
# Postgres has no lock on a schema; whoever migrates holds this one.
MIGRATION_LOCK = 0x7477_6761


class DatabaseBehindError(DetailedError):
    """The database's schema is older than this program; `limit` is the revision that is needed."""

    reason = "MISMATCH"


@asynccontextmanager
async def open_database(
    url: str, *, wait_seconds: float = 3.0, connections: int = 5
) -> AsyncIterator[AsyncEngine]:
    """Connect; close at the end.

    Args:
        url: SQLAlchemy URL, `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.
        wait_seconds: longest wait for Postgres to answer.

    Raises:
        DatabaseBehindError: names the command that helps.
        UnavailableError: no answer.
    """
    engine = _engine(url, wait_seconds, connections)
    try:
        await _require_current(engine)
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """All of it is stored, or nothing. Raises: UnavailableError, so that a broken database lets
    nobody in and says so.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except AWAY as error:
        raise UnavailableError(
            "the gateway's database does not answer", reason="DATABASE_UNAVAILABLE", retry_seconds=1
        ) from error


async def migrate(url: str) -> tuple[str, str]:
    """Bring a database up to date, or make it: the revisions before ("" is an empty one) and after.
    Raises: UnavailableError.
    """
    engine = _engine(url, 60.0, 1)
    try:
        async with transaction(engine) as connection:
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def shown(url: str | URL) -> str:
    """The URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _engine(url: str, wait_seconds: float, connections: int) -> AsyncEngine:
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        Path(made.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
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
        # During a roll-out the database is migrated first, by the program that comes after this
        # one.
        log.warning("database is newer than this program", extra=fields(revision=revision))
    elif engine.dialect.name == "sqlite":
        async with transaction(engine) as connection:
            await connection.run_sync(_upgrade)
    else:
        raise DatabaseBehindError(
            f"the gateway's database {shown(engine.url)} is at revision {revision or 'none'}, {REVISIONS[-1]} is "
            "needed: run python -m services.gateway migrate",
            field="database_url",
            limit=REVISIONS[-1],
        )


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")


def _upgrade(connection: Connection) -> tuple[str, str]:
    # Slow to load, and hardly ever needed.
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
            # Made before there were revisions.
            command.stamp(config, "0001")
        command.upgrade(config, "head")
    return before, _revision(connection)
