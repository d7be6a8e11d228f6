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
from sqlalchemy import Connection, Select, Table, column, event, inspect, select, table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

FAILED = Counter("thumbwheel_review_transactions_failed_total", "Failed database transactions.")

MIGRATIONS = Path(__file__).parent / "migrations"
# Named after the service, because services may share a database.
VERSION_TABLE = "review_revision"
# Files of migrations/versions, oldest first. Listed here to avoid loading Alembic when the database
# is current.
REVISIONS = ("0001", "0002", "0003", "0004")
# SQLAlchemy translates errors of the drivers, but not errors of sockets or timeouts.
UNAVAILABLE = (SQLAlchemyError, OSError)
# Advisory lock of migrations, because Postgres has no lock on a schema.
MIGRATION_LOCK = int.from_bytes(b"REVIEW")
# SQLAlchemy has no common class for the upserts of the two dialects.
INSERTS: Mapping[str, Callable[[Table], Any]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
# Erased rows are overwritten in the file. An acknowledged vote survives a power loss.
PRAGMAS = ("foreign_keys=ON", "secure_delete=ON", "synchronous=FULL", "busy_timeout=3000")


@asynccontextmanager
async def open_database(
    url: str, *, wait_seconds: float = 3.0, connections: int = 5
) -> AsyncIterator[AsyncEngine]:
    """Connect to the database during the block.

    Args:
        url: SQLAlchemy URL, `sqlite+aiosqlite:///…` or `postgresql+asyncpg://…`.
        wait_seconds: longest wait for a connection or an answer of Postgres.
        connections: size of the connection pool with Postgres.

    Raises:
        SchemaRevisionError: the schema is too old; the error names the migration command.
        UnavailableError: the database does not answer.
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
    engine = _engine(url, 60.0, 1)
    try:
        async with transaction(engine) as connection:
            return await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def redacted_url(url: str | URL) -> str:
    """Return the URL without its password."""
    return make_url(url).render_as_string(hide_password=True)


def _engine(url: str, wait_seconds: float, connections: int) -> AsyncEngine:
    made = make_url(url)
    if made.get_backend_name() == "sqlite":
        file = Path(made.database or "").absolute()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            # SQLite would create the file readable by all users.
            file.touch(mode=0o600)
        # SQLite has one writer, and a connection that reads before it writes could not wait for
        # another: one connection makes transactions wait in the pool.
        engine = create_async_engine(
            made, pool_size=1, max_overflow=0, pool_timeout=wait_seconds, hide_parameters=True
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
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


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # By default the driver begins transactions itself, late and DEFERRED.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


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
            f"the review database {redacted_url(engine.url)} is at revision "
            f"{revision or 'none'}, {REVISIONS[-1]} is needed: "
            "run python -m services.review migrate",
            field="database_url",
            limit=REVISIONS[-1],
        )


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table(VERSION_TABLE):
        return ""
    found: Select[Any] = select(column("version_num")).select_from(table(VERSION_TABLE))
    return str(connection.execute(found).scalar() or "")


def _upgrade(connection: Connection) -> tuple[str, str]:
    # Imported here, because loading is slow and rarely needed.
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
    before = _revision(connection)
    if before in ("", *REVISIONS[:-1]):
        config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "head")
    return before, _revision(connection)
