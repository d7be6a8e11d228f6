"""Choice of the database by URL, and its schema.

A SQLite database is migrated at start. A Postgres database must be migrated before, because
replicas share the database.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from services.chassis.database.engine import disposing
from services.chassis.database.schema import Schema
from services.session.store.database import Database, DatabaseLimits
from services.session.store.postgres import open_postgres
from services.session.store.sqlite import open_sqlite

SCHEMA = Schema(
    Path(__file__).parent / "migrations",
    revision_table="session_revision",
    lock=int.from_bytes(b"SESSION"),
    outdated_text="the schema of the sessions database is older than this version: "
    "run `python -m services.session migrate`",
    unversioned_table="conversations",
)


@asynccontextmanager
async def open_database(url: str, limits: DatabaseLimits) -> AsyncIterator[Database]:
    """Open the database, with the schema of this version; close the database at the end.

    Raises:
        SchemaRevisionError: a Postgres database has an older schema.
        UnavailableError: the database cannot be reached.
    """
    opened: AbstractAsyncContextManager[Database] = (
        open_sqlite(url, limits.connections)
        if url.startswith("sqlite")
        else open_postgres(url, limits)
    )
    async with opened as database:
        if await database.read(SCHEMA.needs_upgrade):
            await database.erase(SCHEMA.upgrade)
        yield database


async def migrate(url: str) -> None:
    """Migrate the database to the schema of this version, without a timeout."""
    if url.startswith("sqlite"):
        async with open_sqlite(url, 1) as file:
            await file.erase(SCHEMA.upgrade)
        return
    async with disposing(create_async_engine(url)) as engine, engine.begin() as connection:
        await connection.run_sync(SCHEMA.upgrade)
