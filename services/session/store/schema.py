"""Choice of the database by URL, its schema revision, and the migration to that of this version.

A SQLite database is migrated at start. A Postgres database must be migrated before, because
replicas share the database. The comparison needs one query and does not import Alembic. Migrations
only add tables, columns and indexes, so that replicas of the previous version continue to serve
during a rollout. An unknown revision belongs to a later version and is served.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.chassis.errors import SchemaRevisionError
from services.session.store.database import Database, DatabaseLimits
from services.session.store.postgres import open_postgres
from services.session.store.sqlite import open_sqlite

# Named after the service, because other services may use the same database.
VERSION_TABLE = "session_revision"
# Revisions of the files in migrations/versions, oldest first.
REVISIONS = ("0001", "0002", "0003", "0004")
MIGRATIONS = Path(__file__).parent / "migrations"
# Key of the advisory lock that serialises migrations.
MIGRATION_LOCK = int.from_bytes(b"SESSION")


def is_outdated(connection: Connection) -> bool:
    """Return True if migrations are missing."""
    found = _revision(connection)
    return found is None or found in REVISIONS[:-1]


def upgrade(connection: Connection) -> None:
    """Run the missing migrations in the transaction of the connection.

    Concurrent migrations of a Postgres database wait for the first and then change nothing.
    """
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    if not is_outdated(connection):
        return
    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(MIGRATIONS))
    if _revision(connection) is None and inspect(connection).has_table("conversations"):
        # Created by the version without migrations.
        command.stamp(config, REVISIONS[0])
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(
        select(column("version_num")).select_from(table(VERSION_TABLE))
    ).scalar()


@asynccontextmanager
async def open_database(url: str, limits: DatabaseLimits) -> AsyncIterator[Database]:
    """Open the database, with the schema of this version; close the database at the end.

    Raises:
        SchemaRevisionError: a Postgres database has an older schema.
        UnavailableError: the database cannot be reached.
    """
    if url.startswith("sqlite"):
        async with open_sqlite(url, limits.connections) as file:
            if await file.read(is_outdated):
                await file.erase(upgrade)
            yield file
    else:
        async with open_postgres(url, limits) as server:
            if await server.read(is_outdated):
                raise SchemaRevisionError(
                    "the schema of the sessions database is older than this version: "
                    "run `python -m services.session migrate`",
                    field="database_url",
                    limit=REVISIONS[-1],
                )
            yield server


async def migrate(url: str) -> None:
    """Migrate the database to the schema of this version, without a timeout."""
    if url.startswith("sqlite"):
        async with open_sqlite(url, 1) as file:
            await file.erase(upgrade)
        return
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
