"""The gateway's database: creation, migration, refusal of old schemas, and a fast start."""

import asyncio
import logging
import sqlite3
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from services.chassis.database import schema
from services.chassis.identity import Caller
from services.gateway.identity.authentication import ApiKeys, digest_of, new_secret
from services.gateway.identity.credential import ALL_SCOPES, Scope
from services.gateway.store import database
from services.gateway.store.database import SCHEMA, migrate, open_database
from services.gateway.store.keys import SqlKeyStore, tenants, users
from tests.services.gateway.keys import reason_of, url
from tests.services.gateway.schemas import differences

# Schema from the time before revisions.
YESTERDAY = """
CREATE TABLE api_keys (
    key_id VARCHAR(36) NOT NULL, digest BLOB NOT NULL, tenant VARCHAR(64) NOT NULL,
    user VARCHAR(64) NOT NULL,
    create_time FLOAT NOT NULL, revoke_time FLOAT, PRIMARY KEY (key_id), UNIQUE (digest)
)
"""


def yesterdays_file(directory: Path) -> list[str]:
    """Create an old database with three users and return the secrets.

    One user has two keys, of which one is revoked.
    """
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


async def test_new_database_has_the_defined_tables(tmp_path: Path) -> None:
    async with open_database(url(tmp_path)) as engine, engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_old_keys_get_the_scopes_of_their_time_and_their_users_are_inserted(
    tmp_path: Path,
) -> None:
    secrets = yesterdays_file(tmp_path)
    async with open_database(url(tmp_path)) as engine, ApiKeys(SqlKeyStore(engine), 0) as keys:
        owner = await keys.authenticate(secrets[0])
        assert (owner.caller, owner.scopes) == (
            Caller("default", "owner"),
            ALL_SCOPES - {Scope.REVIEW},
        )
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


async def test_concurrent_starts_migrate_once(tmp_path: Path) -> None:
    secrets = yesterdays_file(tmp_path)

    async def start() -> str:
        async with open_database(url(tmp_path)) as engine, ApiKeys(SqlKeyStore(engine), 60) as keys:
            return await reason_of(keys, secrets[0])

    assert await asyncio.gather(*(start() for _ in range(4))) == [""] * 4


async def test_start_waits_for_the_migration_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration may hold the lock for longer than a request may wait."""
    monkeypatch.setattr(database, "LOCK_SECONDS", 0.0)
    secrets = yesterdays_file(tmp_path)
    other = sqlite3.connect(tmp_path / "keys.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    async def start() -> str:
        database = open_database(url(tmp_path), wait_seconds=0.01)
        async with database as engine, ApiKeys(SqlKeyStore(engine), 60) as keys:
            return await reason_of(keys, secrets[0])

    starting = asyncio.create_task(start())
    # A wait of a request ends within this time, and the start then fails.
    await asyncio.wait([starting], timeout=0.3)
    other.close()
    assert await starting == ""


async def test_failed_migration_leaves_the_database_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = yesterdays_file(tmp_path)
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        # The second step fails at an existing table, after the creation of another.
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


async def test_start_with_a_current_schema_does_not_load_alembic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(url(tmp_path)):
        pass

    monkeypatch.setitem(sys.modules, "alembic", None)
    async with open_database(url(tmp_path)):
        pass


async def test_newer_database_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_database(url(tmp_path)) as engine, engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    caplog.set_level(logging.WARNING)
    async with open_database(url(tmp_path)) as engine:
        assert await SqlKeyStore(engine).list_keys() == []
    (record,) = [record for record in caplog.records if record.name == schema.__name__]
    assert (record.levelno, getattr(record, "fields", None)) == (
        logging.WARNING,
        {"revision": "9999"},
    )
    assert await migrate(url(tmp_path)) == ("9999", "9999")


async def test_database_whose_revision_was_set_back_is_migrated_again(tmp_path: Path) -> None:
    async with open_database(url(tmp_path)) as engine, engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0002'")
    assert await migrate(url(tmp_path)) == ("0002", SCHEMA.head)
    async with open_database(url(tmp_path)) as engine, engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_migrate_command_prints_both_revisions(tmp_path: Path) -> None:
    yesterdays_file(tmp_path)
    assert await migrate(url(tmp_path)) == ("", SCHEMA.head)
    assert await migrate(url(tmp_path)) == (SCHEMA.head, SCHEMA.head)
