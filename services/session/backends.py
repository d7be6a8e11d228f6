"""Opens the database that the URL names. SQLite migrates itself; Postgres must have been migrated,
because replicas share it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.session.database import Database, DatabaseLimits
from services.session.postgres_database import open_postgres
from services.session.schema import DatabaseBehindError, is_behind, upgrade
from services.session.sqlite_database import open_sqlite


@asynccontextmanager
async def open_database(url: str, limits: DatabaseLimits) -> AsyncIterator[Database]:
    """A database of our revision, closed at the end.

    Raises:
        DatabaseBehindError: Postgres has an older one.
        UnavailableError: it is away.
    """
    if url.startswith("sqlite"):
        async with open_sqlite(url, limits.connections) as file:
            if await file.read(is_behind):
                await file.erase(upgrade)
            yield file
    else:
        async with open_postgres(url, limits) as server:
            if await server.read(is_behind):
                raise DatabaseBehindError
            yield server


async def migrate(url: str) -> None:
    """Bring the database to our revision; nothing happens if it is there. Waits as long as it
    takes.
    """
    if url.startswith("sqlite"):
        async with open_sqlite(url, 1) as file:
            await file.erase(upgrade)
        return
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
