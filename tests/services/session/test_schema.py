"""Migrations: yesterday's file with its data, an empty database, two at once, and a service that
will not serve the past.
"""

import asyncio
import contextlib
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import UnavailableError
from services.session.backends import migrate, open_database
from services.session.schema import (
    MIGRATIONS,
    REVISIONS,
    VERSION_TABLE,
    DatabaseBehindError,
    upgrade,
)
from services.session.sqlite_database import open_sqlite
from services.session.tables import metadata
from tests.servers import PostgresServer
from tests.services.session.service import (
    ADA,
    LIMITS,
    FakeFeedback,
    Home,
    feedback_service,
    session_service,
    talk,
)
from tests.services.session.test_process import start
from tests.support.errors import refused

# What the version before migrations wrote: one conversation of one turn, whose record waits in the
# outbox.
YESTERDAY = Path(__file__).parent / "yesterday.sql"
CONVERSATION, ANSWER = (
    "01a2124b-0bbc-7086-8eb0-424aecfaf763",
    "01a2124b-0bc4-702a-ab09-b06a324fd2ec",
)


def test_the_revisions_are_those_of_the_files() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    assert tuple(found.revision for found in script.walk_revisions())[::-1] == REVISIONS


async def test_the_newest_schema_is_what_the_tables_say(home: Home) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        return list(compare_metadata(context, metadata))

    async with open_database(home.database_url, LIMITS) as database:
        assert await database.read(differences) == []


async def test_yesterdays_file_is_upgraded_in_place_with_its_data(sqlite_home: Home) -> None:
    write_yesterday(sqlite_home)
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


async def test_a_migration_that_fails_half_way_leaves_the_file_as_it_was(sqlite_home: Home) -> None:
    write_yesterday(sqlite_home, "CREATE TABLE relay_lease (in_the_way INTEGER)")
    async with open_sqlite(sqlite_home.database_url, 1) as database:
        with pytest.raises(UnavailableError):
            await database.erase(upgrade)
        tables = await database.read(lambda connection: set(inspect(connection).get_table_names()))
        columns = await database.read(
            lambda connection: {c["name"] for c in inspect(connection).get_columns("outbox")}
        )
    assert tables == {"conversations", "messages", "turns", "outbox", "relay_lease"}
    assert columns == {"id", "conversation_id", "refused", "payload"}


async def test_two_migrations_at_once_make_one_schema(postgres: PostgresServer) -> None:
    url = (await asyncio.to_thread(postgres.database)).url()
    await asyncio.gather(*(migrate(url) for _ in range(4)))
    async with open_database(url, LIMITS) as database:
        query = text(f"SELECT version_num FROM {VERSION_TABLE}")
        assert await database.read(
            lambda connection: connection.execute(query).scalars().all()
        ) == [REVISIONS[-1]]


async def test_a_warm_start_does_not_load_alembic(sqlite_home: Home) -> None:
    async with open_database(sqlite_home.database_url, LIMITS):
        pass
    program = (
        "import asyncio, sys\n"
        "from services.session.backends import open_database\n"
        "from services.session.database import DatabaseLimits\n"
        "async def main():\n"
        f"    async with open_database({sqlite_home.database_url!r}, DatabaseLimits(1, 5, 5, 5, 9)): pass\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=Path(__file__).parents[3]
    )
    assert await process.wait() == 0


async def test_postgres_that_is_behind_is_not_served_and_the_command_is_named(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    home = Home(tmp_path, (await asyncio.to_thread(postgres.database)).url())
    with refused(
        DatabaseBehindError, field="database_url", reason="MISMATCH", limit=REVISIONS[-1]
    ) as caught:
        async with open_database(home.database_url, LIMITS):
            pass
    assert "python -m services.session migrate" in str(caught.value)
    migrating = await start(home, "migrate")
    assert await asyncio.wait_for(migrating.wait(), 60) == 0
    async with open_database(home.database_url, LIMITS):
        pass


async def test_a_schema_of_a_later_version_is_served(home: Home) -> None:
    """While replicas are replaced the old ones go on."""
    async with open_database(home.database_url, LIMITS) as database:
        later = text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        await database.write(lambda connection: connection.execute(later))
    async with session_service(home) as stub:
        await talk(stub, "hello", "hi")


def write_yesterday(home: Home, more: str = "") -> None:
    file = Path(home.database_url.removeprefix("sqlite:///"))
    file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.executescript(YESTERDAY.read_text() + more)
