"""A database of a test's own, with the generator's tables."""

import asyncio

import pytest

from services.generator.migrate import migrate
from tests.servers import PostgresServer


@pytest.fixture
def empty_database(postgres: PostgresServer) -> str:
    return postgres.database().url()


@pytest.fixture
def database(empty_database: str) -> str:
    asyncio.run(migrate(empty_database))
    return empty_database
