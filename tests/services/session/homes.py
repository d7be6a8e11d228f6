"""Fixtures for the databases of a test; tests of the service run on SQLite and real Postgres."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from services.session.store.schema import migrate
from tests.servers import Database, PostgresServer
from tests.services.session.service import Home


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> Database:
    """Migrated template of the test databases; a copy takes about 30 ms."""
    template = postgres.database()
    asyncio.run(migrate(template.url()))
    return template


@pytest.fixture
def postgres_home(postgres_template: Database, tmp_path: Path) -> Iterator[Home]:
    own = replace(postgres_template, name=f"t_{uuid4().hex}")
    _administer(own, f"CREATE DATABASE {own.name} TEMPLATE {postgres_template.name}")
    yield Home(tmp_path, own.url())
    _administer(own, f"DROP DATABASE {own.name} WITH (FORCE)")


@pytest.fixture
def sqlite_home(tmp_path: Path) -> Home:
    return Home(tmp_path, f"sqlite:///{tmp_path}/state/sessions.db")


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
