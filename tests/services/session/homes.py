"""Fixtures for the databases of a test; tests of the service run on SQLite and real Postgres."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.session.store.schema import migrate
from tests.servers import Database, PostgresServer
from tests.services.session.service import Home
from tests.support.postgres_copies import copy_of


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> Database:
    """Migrated template of the test databases."""
    template = postgres.database()
    asyncio.run(migrate(template.url()))
    return template


@pytest.fixture
def postgres_home(postgres_template: Database, tmp_path: Path) -> Iterator[Home]:
    with copy_of(postgres_template) as own:
        yield Home(tmp_path, own.url())


@pytest.fixture
def sqlite_home(tmp_path: Path) -> Home:
    return Home(tmp_path, f"sqlite:///{tmp_path}/state/sessions.db")


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest) -> Home:
    found: Home = request.getfixturevalue(f"{request.param}_home")
    return found
