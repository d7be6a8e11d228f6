"""Databases of a test; tests of the service run on SQLite and real Postgres."""

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from services.review.store.database import migrate
from tests.servers import Database, PostgresServer
from tests.services.review.service import Home


@pytest.fixture(scope="session")
def review_template(postgres: PostgresServer) -> Database:
    """Migrated template of the test databases; a copy takes about 30 ms."""
    template = postgres.database()
    asyncio.run(migrate(template.url()))
    return template


@pytest.fixture
def postgres_home(review_template: Database, tmp_path: Path) -> Iterator[Home]:
    own = replace(review_template, name=f"t_{uuid4().hex}")
    _administer(own, f"CREATE DATABASE {own.name} TEMPLATE {review_template.name}")
    yield Home(tmp_path, own.url())
    _administer(own, f"DROP DATABASE {own.name} WITH (FORCE)")


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


def _administer(database: Database, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(replace(database, name="postgres").url("postgresql"))
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())
