"""A database of a test's own, with the generator's tables."""

import asyncio
from typing import Any

import pytest

from services.generator.migrate import migrate


@pytest.fixture
def empty_database(postgres: Any) -> str:
    return postgres.database()


@pytest.fixture
def database(empty_database: str) -> str:
    asyncio.run(migrate(empty_database))
    return empty_database
