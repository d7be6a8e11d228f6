"""The gateway's database: made, migrated from yesterday's file, refused when it is behind; a start
with nothing to do does nothing.
"""

import asyncio
import logging
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select

from services.chassis.identity import Caller
from services.gateway import database
from services.gateway.credential import ALL_SCOPES
from services.gateway.database import MIGRATIONS, REVISIONS, migrate, open_database
from services.gateway.key_store import SqlKeyStore
from services.gateway.keys import ApiKeys, digest_of, new_secret
from services.gateway.tables import METADATA, tenants, users
from tests.services.gateway.test_keys import reason_of, url

# As the gateway made it before there were revisions.
YESTERDAY = """
CREATE TABLE api_keys (
    key_id VARCHAR(36) NOT NULL, digest BLOB NOT NULL, tenant VARCHAR(64) NOT NULL, user VARCHAR(64) NOT NULL,
    create_time FLOAT NOT NULL, revoke_time FLOAT, PRIMARY KEY (key_id), UNIQUE (digest)
)
"""


def yesterdays_file(directory: Path) -> list[str]:
    """Three users, one of them with two keys, of which one is revoked. Returns the secrets."""
    secrets = [new_secret() for _ in range(4)]
    names = [("default", "owner"), ("default", "ada"), ("default", "ada"), ("acme", "ada")]
    with sqlite3.connect(directory / "keys.db") as connection:
        connection.execute(YESTERDAY)
        for number, (secret, (tenant, user)) in enumerate(zip(secrets, names, strict=True)):
            revoked = time.time() if number == 2 else None
            row = (f"key-{number}", digest_of(secret), tenant, user, 1_000.0 + number, revoked)
            connection.execute("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?, ?)", row)
    connection.close()
    return secrets


def differences(connection: Connection) -> Any:
    """What the database has otherwise than the tables say."""
    return compare_metadata(MigrationContext.configure(connection), METADATA)


async def test_a_new_file_has_the_tables_of_the_code(tmp_path: Path) -> None:
    async with open_database(url(tmp_path)) as engine, engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_yesterdays_keys_go_on_with_all_scopes_and_their_users_have_rows(
    tmp_path: Path,
) -> None:
    secrets = yesterdays_file(tmp_path)
    async with open_database(url(tmp_path)) as engine, ApiKeys(SqlKeyStore(engine), 0) as keys:
        owner = await keys.authenticate(secrets[0])
        assert (owner.caller, owner.scopes) == (Caller("default", "owner"), ALL_SCOPES)
        assert [await reason_of(keys, secret) for secret in secrets[1:]] == [
            "",
            "API_KEY_REVOKED",
            "",
        ]
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
            found_users = await connection.execute(select(users).order_by(users.c.create_time))
            assert [tuple(row) for row in found_users] == [
                ("default", "owner", 1_000.0),
                ("default", "ada", 1_001.0),
                ("acme", "ada", 1_003.0),
            ]
            found_tenants = await connection.execute(
                select(tenants).order_by(tenants.c.create_time)
            )
            assert [row.tenant for row in found_tenants] == ["default", "acme"]


async def test_two_who_start_at_once_migrate_once(tmp_path: Path) -> None:
    secrets = yesterdays_file(tmp_path)

    async def start() -> str:
        async with open_database(url(tmp_path)) as engine, ApiKeys(SqlKeyStore(engine), 60) as keys:
            return await reason_of(keys, secrets[0])

    assert await asyncio.gather(*(start() for _ in range(4))) == [""] * 4


async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = yesterdays_file(tmp_path)
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        # The second step finds a table in its way, after it has made another one.
        connection.execute("CREATE TABLE users (anything TEXT)")
    connection.close()
    with pytest.raises(database.UnavailableError):
        async with open_database(url(tmp_path)):
            raise AssertionError("opened")
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        found = {
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        assert found == {"api_keys", "users"}
        connection.execute("DROP TABLE users")
    connection.close()
    async with open_database(url(tmp_path)) as engine, ApiKeys(SqlKeyStore(engine), 60) as keys:
        assert await reason_of(keys, secrets[0]) == ""


async def test_a_start_with_nothing_to_do_does_not_even_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(url(tmp_path)):
        pass

    def upgrade(connection: Connection) -> Any:
        raise AssertionError("asked to upgrade")

    monkeypatch.setattr(database, "_upgrade", upgrade)
    async with open_database(url(tmp_path)):
        pass


async def test_a_database_of_a_later_version_is_served_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_database(url(tmp_path)) as engine, engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    caplog.set_level(logging.WARNING)
    async with open_database(url(tmp_path)) as engine:
        assert await SqlKeyStore(engine).list_keys() == []
    (record,) = [record for record in caplog.records if record.name == database.__name__]
    assert (record.levelno, getattr(record, "fields", None)) == (
        logging.WARNING,
        {"revision": "9999"},
    )
    assert await migrate(url(tmp_path)) == ("9999", "9999")


async def test_the_migrate_command_says_from_where_to_where(tmp_path: Path) -> None:
    yesterdays_file(tmp_path)
    assert await migrate(url(tmp_path)) == ("", REVISIONS[-1])
    assert await migrate(url(tmp_path)) == (REVISIONS[-1], REVISIONS[-1])


def test_the_revisions_that_the_code_knows_are_those_of_the_files() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    found = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(found)) == REVISIONS


def test_a_password_is_not_shown() -> None:
    assert "secret" not in database.redacted_url("postgresql+asyncpg://tw:secret@127.0.0.1/tw")
