"""Two replicas of the service on one database, and a further connection to the database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.services.session.service import Home, session_service


@asynccontextmanager
async def two_replicas(home: Home, **changes: Any) -> AsyncIterator[tuple[Any, Any]]:
    async with session_service(home, **changes) as one, session_service(home, **changes) as other:
        yield one, other


@asynccontextmanager
async def foreign_connection(home: Home) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(home.database_url.replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()
