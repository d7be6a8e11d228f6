"""A Postgres database with the generator's tables.

One database for all tests, because each database adds seconds to the recovery of the server.
"""

import asyncio

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import create_async_engine

from services.generator.store.database import ROLLOUT, TRAFFIC, migrate
from tests.servers import PostgresServer


@pytest.fixture
def empty_database(postgres: PostgresServer) -> str:
    """Return the URL of a new database without tables."""
    return postgres.database().url()


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer) -> str:
    url = postgres.database().url()
    asyncio.run(migrate(url))
    return url


@pytest.fixture
def database(shared_database: str) -> str:
    """Return the URL of the database with tables and without a rollout."""
    asyncio.run(_empty(shared_database))
    return shared_database


async def _empty(url: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(delete(ROLLOUT))
        await connection.execute(delete(TRAFFIC))
    await engine.dispose()
