"""Migrations: a file of the first version, concurrent migrations, and outdated schemas."""

import asyncio
import contextlib
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.session.store.schema import SCHEMA, migrate, open_database
from services.session.store.sqlite import open_sqlite
from services.session.store.tables import metadata
from tests.servers import PostgresServer
from tests.services.session.processes import start
from tests.services.session.service import (
    ADA,
    LIMITS,
    FakeFeedback,
    Home,
    feedback_service,
    session_service,
    talk,
)
from tests.support.errors import refused

# A database of the version without migrations, with a single turn and its waiting record.
FIRST_VERSION = Path(__file__).parents[1] / "first_version.sql"
CONVERSATION, ANSWER = (
    "01a2124b-0bbc-7086-8eb0-424aecfaf763",
    "01a2124b-0bc4-702a-ab09-b06a324fd2ec",
)


async def test_migrated_schema_equals_the_table_definitions(home: Home) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(
            connection, opts={"version_table": SCHEMA.revision_table}
        )
        return list(compare_metadata(context, metadata))

    async with open_database(home.database_url, LIMITS) as database:
        assert await database.read(differences) == []


async def test_sqlite_file_of_the_first_version_is_migrated_with_its_data(
    sqlite_home: Home,
) -> None:
    write_first_version(sqlite_home)
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(sqlite_home, feedback_target=f"127.0.0.1:{port}") as stub,
    ):
        more = await talk(stub, "more", "yes", CONVERSATION)
        request = session_pb2.GetConversationRequest(conversation_id=CONVERSATION)
        stored = await stub.GetConversation(request, timeout=5, metadata=ADA)
        async with asyncio.timeout(10):
            while len(feedback.turns) < 2:
                await asyncio.sleep(0.02)
    assert [message.text for message in more.context] == ["hello", "hi", "more"]
    assert [message.text for message in stored.messages] == ["hello", "hi", "more", "yes"]
    assert [event.message_id for event in feedback.turns] == [ANSWER, more.assistant_message_id]


async def test_failed_migration_leaves_the_file_unchanged(sqlite_home: Home) -> None:
    write_first_version(sqlite_home, "CREATE TABLE relay_lease (in_the_way INTEGER)")
    async with open_sqlite(sqlite_home.database_url, 1) as database:
        with pytest.raises(UnavailableError):
            await database.erase(SCHEMA.upgrade)
        tables = await database.read(lambda connection: set(inspect(connection).get_table_names()))
        columns = await database.read(
            lambda connection: {c["name"] for c in inspect(connection).get_columns("outbox")}
        )
    assert tables == {"conversations", "messages", "turns", "outbox", "relay_lease"}
    assert columns == {"id", "conversation_id", "refused", "payload"}


async def test_sqlite_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    async with open_database(f"sqlite:///{tmp_path}/made/sessions.db", LIMITS):
        modes = {file.stat().st_mode & 0o777 for file in (tmp_path / "made").iterdir()}
    assert modes == {0o600}


async def test_concurrent_migrations_create_one_schema(postgres: PostgresServer) -> None:
    url = (await asyncio.to_thread(postgres.database)).url()
    await asyncio.gather(*(migrate(url) for _ in range(4)))
    async with open_database(url, LIMITS) as database:
        query = text(f"SELECT version_num FROM {SCHEMA.revision_table}")
        assert await database.read(
            lambda connection: connection.execute(query).scalars().all()
        ) == [SCHEMA.head]


async def test_start_without_migrations_does_not_import_alembic(sqlite_home: Home) -> None:
    async with open_database(sqlite_home.database_url, LIMITS):
        pass
    program = (
        "import asyncio, sys\n"
        "from services.session.store.schema import open_database\n"
        "from services.session.store.database import DatabaseLimits\n"
        "async def main():\n"
        "    limits = DatabaseLimits(1, 5, 5, 5, 9)\n"
        f"    async with open_database({sqlite_home.database_url!r}, limits): pass\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=Path(__file__).parents[4]
    )
    assert await process.wait() == 0


async def test_outdated_postgres_schema_is_refused_with_the_migration_command(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    home = Home(tmp_path, (await asyncio.to_thread(postgres.database)).url())
    with refused(
        SchemaRevisionError, field="database_url", reason="MISMATCH", limit=SCHEMA.head
    ) as caught:
        async with open_database(home.database_url, LIMITS):
            pass
    assert "python -m services.session migrate" in str(caught.value)
    migrating = await start(home, "migrate")
    assert await asyncio.wait_for(migrating.wait(), 60) == 0
    async with open_database(home.database_url, LIMITS):
        pass


async def test_schema_of_a_later_version_is_served(home: Home) -> None:
    """Replicas of the previous version continue to serve during a rollout."""
    async with open_database(home.database_url, LIMITS) as database:
        later = text(f"UPDATE {SCHEMA.revision_table} SET version_num = '9999'")
        await database.write(lambda connection: connection.execute(later))
    async with session_service(home) as stub:
        await talk(stub, "hello", "hi")


def write_first_version(home: Home, more: str = "") -> None:
    file = Path(home.database_url.removeprefix("sqlite:///"))
    file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(FIRST_VERSION.read_text() + more)
