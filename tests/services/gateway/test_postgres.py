"""Identity on a real Postgres: migration by command, several replicas, and outages."""

import argparse
import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.gateway.identity.authentication import ApiKeys, digest_of, mint, new_secret
from services.gateway.identity.credential import ALL_SCOPES, DEFAULT_SCOPES
from services.gateway.identity.key_commands import add_database, run_migrate_command
from services.gateway.store.database import SCHEMA, migrate, open_database
from services.gateway.store.keys import SqlKeyStore, users
from tests.servers import PostgresServer
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway
from tests.services.gateway.keys import ADA, reason_of, run_at
from tests.services.gateway.schemas import differences
from tests.support.errors import refused

ROOT = Path(__file__).resolve().parents[3]
HEAD = SCHEMA.head
WAIT_SECONDS = 1.0


@pytest.fixture
def empty(postgres: PostgresServer) -> str:
    return postgres.database().url()


@pytest.fixture
async def migrated(empty: str) -> str:
    await migrate(empty)
    return empty


async def test_old_schema_is_refused_with_the_migration_command(
    empty: str,
) -> None:
    with refused(
        SchemaRevisionError, field="database_url", reason="MISMATCH", limit=HEAD
    ) as caught:
        async with open_database(empty):
            raise AssertionError("opened")
    assert "python -m services.gateway migrate" in str(caught.value)
    assert empty.split(":")[2].split("@")[0] not in str(caught.value)
    # Two operators at the same time.
    revisions = await asyncio.gather(migrate(empty), migrate(empty))
    assert sorted(revisions) == [("", HEAD), (HEAD, HEAD)]
    async with open_database(empty) as engine, engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_process_exits_with_the_migration_command_and_it_works(
    empty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        sys.executable,
        "-m",
        "services.gateway",
        "keys",
        "--database",
        empty,
        "create",
        "--user",
        "ada",
    ]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert b"python -m services.gateway migrate" in err
    assert b"Traceback" not in err
    parser = argparse.ArgumentParser()
    add_database(parser, empty)
    assert await run_migrate_command(parser.parse_args([])) == 0
    assert HEAD in capsys.readouterr().out
    assert await run_at(empty, "create", "--user", "ada") == 0
    assert capsys.readouterr().out.startswith("tw_")


async def test_keys_in_postgres_behave_as_in_sqlite(
    migrated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_database(migrated) as engine, ApiKeys(SqlKeyStore(engine), 0) as keys:
        store = SqlKeyStore(engine)
        (first, key), second, now = mint(ADA), new_secret(), time.time()
        for _ in range(2):
            await store.add(key)
        # Another key of the same user, added concurrently through two engines.
        others = [mint(ADA, ALL_SCOPES)[1] for _ in range(4)]
        await asyncio.gather(*(store.add(other) for other in others))
        assert await store.rotate(key.key_id, digest_of(second), now, now + 60)
        assert [await reason_of(keys, secret) for secret in (first, second)] == ["", ""]
        assert await store.revoke(key.key_id, now)
        assert [await reason_of(keys, secret) for secret in (first, second)] == [
            "API_KEY_REVOKED"
        ] * 2
        assert not await store.revoke(key.key_id, now)
        assert {found.scopes for found in await store.list_keys()} == {DEFAULT_SCOPES, ALL_SCOPES}
        async with engine.connect() as connection:
            assert [row.user for row in await connection.execute(select(users))] == ["ada"]
    assert await run_at(migrated, "list") == 0
    assert "used within" in capsys.readouterr().out


async def test_revoked_key_stops_within_five_seconds_on_every_replica(
    migrated: str, tmp_path: Path
) -> None:
    async with (
        run_gateway(_folder(tmp_path, "one"), database_url=migrated) as one,
        run_gateway(_folder(tmp_path, "two"), database_url=migrated) as two,
    ):
        (key,) = [
            found for found in await one.store.list_keys() if found.digest == digest_of(one.key)
        ]
        assert [await _status(gateway, one.key) for gateway in (one, two)] == [200, 200]
        revoked_at = time.monotonic()
        assert await one.store.revoke(key.key_id, time.time())
        for gateway in (one, two):
            last_welcome = revoked_at
            while (began := time.monotonic()) < revoked_at + 30 and await _status(
                gateway, one.key
            ) == 200:
                last_welcome = began
                await asyncio.sleep(0.05)
            assert last_welcome - revoked_at <= 5
            assert await _status(gateway, one.key) == 401
        # A key of another user still works on both replicas.
        assert [await _status(gateway, one.other_key) for gateway in (one, two)] == [200, 200]


@pytest.mark.parametrize("fault", ["kill", "pause"])
async def test_postgres_outage_rejects_all_calls_quickly(
    postgres: PostgresServer, migrated: str, fault: str
) -> None:
    secret, key = mint(ADA)
    async with (
        open_database(migrated, wait_seconds=WAIT_SECONDS) as engine,
        ApiKeys(SqlKeyStore(engine), 0) as keys,
    ):
        await SqlKeyStore(engine).add(key)
        assert await reason_of(keys, secret) == ""
        async with away(postgres, fault):
            for _ in range(3):
                began = time.monotonic()
                with pytest.raises(UnavailableError) as caught:
                    await keys.authenticate(secret)
                assert caught.value.reason == "DATABASE_UNAVAILABLE"
                assert time.monotonic() - began < 10 * WAIT_SECONDS
        assert await reason_of(keys, secret) == ""


async def test_start_during_a_postgres_outage_fails_with_a_clear_error(
    postgres: PostgresServer, migrated: str
) -> None:
    async with away(postgres, "kill"):
        with pytest.raises(UnavailableError):
            async with open_database(migrated, wait_seconds=WAIT_SECONDS):
                raise AssertionError("opened")


async def test_concurrent_migrations_run_one_after_the_other(empty: str) -> None:
    async with create_async_engine(empty, poolclass=NullPool).begin() as connection:
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({SCHEMA.lock})"))
        waiting = asyncio.create_task(migrate(empty))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await connection.rollback()
        assert await waiting == ("", HEAD)


@asynccontextmanager
async def away(server: PostgresServer, fault: str) -> AsyncIterator[None]:
    """Kill or pause the server for the test and restore it afterwards."""
    getattr(server, fault)()
    try:
        yield
    finally:
        if fault == "kill":
            # Started by this thread, because Linux ends a child together with the thread that
            # started it.
            for process in server.processes:
                process.launch()
                await asyncio.to_thread(process.wait_ready)
        else:
            server.resume()


def _folder(directory: Path, name: str) -> Path:
    (directory / name).mkdir()
    return directory / name


async def _status(gateway: GatewayUnderTest, key: str) -> int:
    async with gateway.http.get(
        f"{gateway.url}/v1/models", headers=gateway.headers(key)
    ) as response:
        await response.read()
        return response.status
