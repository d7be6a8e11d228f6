"""Schema of the review database: migrations, revisions, and file modes."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text, update
from sqlalchemy.exc import DBAPIError

from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.review.store.database import SCHEMA, migrate, open_database, transaction
from services.review.store.tables import AUDIT, METADATA
from tests.servers import PostgresServer
from tests.services.review.service import Home
from tests.support.errors import refused


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"version_table": "review_revision"})
    return list(compare_metadata(context, METADATA))


async def test_migrations_create_the_tables_of_the_program(home: Home) -> None:
    async with open_database(home.database_url) as engine, transaction(engine) as connection:
        assert await connection.run_sync(differences) == []


async def test_older_postgres_schema_is_refused_and_migrated_once(postgres: PostgresServer) -> None:
    url = postgres.database().url()
    with refused(SchemaRevisionError, field="database_url", limit=SCHEMA.head):
        async with open_database(url):
            pass
    both = await asyncio.gather(migrate(url), migrate(url))
    assert {before for before, _ in both} == {"", SCHEMA.head}
    async with open_database(url):
        pass


async def test_sqlite_file_is_migrated_on_opening_and_private(tmp_path: Path) -> None:
    file = tmp_path / "new" / "review.db"
    async with open_database(f"sqlite+aiosqlite:///{file}") as engine:
        assert engine.dialect.name == "sqlite"
    assert file.stat().st_mode & 0o077 == 0


async def test_opening_waits_for_the_migration_of_another_process(tmp_path: Path) -> None:
    """A migration may hold the lock for longer than a request may wait."""
    other = sqlite3.connect(tmp_path / "review.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    async def open_and_close() -> None:
        async with open_database(f"sqlite+aiosqlite:///{tmp_path}/review.db", wait_seconds=0.01):
            pass

    opening = asyncio.create_task(open_and_close())
    # A wait of a request ends within this time, and the opening then fails.
    await asyncio.wait([opening], timeout=0.3)
    other.close()
    await opening


async def test_newer_schema_is_served(sqlite_home: Home) -> None:
    url = sqlite_home.database_url
    async with open_database(url) as engine, transaction(engine) as connection:
        await connection.execute(text("UPDATE review_revision SET version_num = '9999'"))
    async with open_database(sqlite_home.database_url):
        pass


async def test_records_of_the_audit_log_cannot_be_changed(home: Home) -> None:
    async with open_database(home.database_url) as engine:
        record = {"time_us": 1, "actor": "a", "act": "b", "object": "c", "outcome": "d"}
        async with transaction(engine) as connection:
            values = record | {"detail": "", "request_id": ""}
            await connection.execute(AUDIT.insert().values(values))
        with pytest.raises(UnavailableError) as caught:
            async with transaction(engine) as connection:
                await connection.execute(update(AUDIT).values(actor="x"))
    assert isinstance(caught.value.__cause__, DBAPIError)
