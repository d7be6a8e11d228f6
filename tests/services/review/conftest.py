"""Databases of a test; tests of the service run on SQLite and real Postgres."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.review.store.database import migrate
from tests.servers import Database, PostgresServer
from tests.services.review.service import Home
from tests.support.postgres_copies import copy_of


@pytest.fixture(scope="session")
def review_template(postgres: PostgresServer) -> Database:
    """Migrated template of the test databases."""
    template = postgres.database()
    asyncio.run(migrate(template.url()))
    return template


@pytest.fixture
def postgres_home(review_template: Database, tmp_path: Path) -> Iterator[Home]:
    with copy_of(review_template) as own:
        yield Home(tmp_path, own.url())


@pytest.fixture(scope="session")
def review_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrated file of the test databases."""
    file = tmp_path_factory.mktemp("review") / "review.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{file}"))
    return file


@pytest.fixture
def sqlite_home(review_file: Path, tmp_path: Path) -> Home:
    file = tmp_path / "state" / "review.db"
    file.parent.mkdir()
    shutil.copy(review_file, file)
    return Home(tmp_path, f"sqlite+aiosqlite:///{file}")


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest) -> Home:
    found: Home = request.getfixturevalue(f"{request.param}_home")
    return found
