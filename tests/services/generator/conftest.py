"""A database with the generator's tables: one for all tests, because each one costs the server
seconds when it recovers.
"""

import asyncio

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import create_async_engine

from services.generator.database import ROLLOUT
from services.generator.migrate import migrate
from tests.servers import PostgresServer


@pytest.fixture
def empty_database(postgres: PostgresServer) -> str:
    """A test's own, without tables."""
    return postgres.database().url()


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer) -> str:
    url = postgres.database().url()
    asyncio.run(migrate(url))
    return url


@pytest.fixture
def database(shared_database: str) -> str:
    """With its tables, and no rollout."""
    asyncio.run(_empty(shared_database))
    return shared_database


async def _empty(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(delete(ROLLOUT))
    await engine.dispose()
