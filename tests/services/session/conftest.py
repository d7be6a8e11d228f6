"""Where a test's session service lives: every test of the service runs on SQLite and on a real Postgres."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.session.backends import migrate
from tests.services.session.postgres import Postgres
from tests.services.session.service import Home

TEMPLATE = "session_template"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_template(postgres: Postgres) -> str:
    """A migrated database that the tests' own are copied from: 30 ms each."""
    postgres.sql(f"CREATE DATABASE {TEMPLATE}")
    asyncio.run(migrate(postgres.url(TEMPLATE)))
    return TEMPLATE


@pytest.fixture
def postgres_home(postgres: Postgres, postgres_template: str, tmp_path: Path) -> Iterator[Home]:
    name = f"t{uuid.uuid4().hex}"
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    yield Home(tmp_path, postgres.url(name))
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def sqlite_home(tmp_path: Path) -> Home:
    return Home(tmp_path, f"sqlite:///{tmp_path}/state/sessions.db")


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest) -> Home:
    found: Home = request.getfixturevalue(f"{request.param}_home")
    return found
