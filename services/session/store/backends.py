"""Choice of the database by URL.

A SQLite database is migrated at start. A Postgres database must be migrated before, because
replicas share the database.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.session.store.database import Database, DatabaseLimits
from services.session.store.postgres import open_postgres
from services.session.store.schema import OutdatedSchemaError, is_outdated, upgrade
from services.session.store.sqlite import open_sqlite


@asynccontextmanager
async def open_database(url: str, limits: DatabaseLimits) -> AsyncIterator[Database]:
    """Open the database, with the schema of this version; close the database at the end.

    Raises:
        OutdatedSchemaError: a Postgres database has an older schema.
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
                raise OutdatedSchemaError
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
