"""The rollout in a real Postgres.

A replica only replaces the rollout that it has read, and a database without the newest migrations
is refused by name.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.chassis.audit.acts import Act
from services.chassis.errors import (
    FailedPreconditionError,
    SchemaRevisionError,
    UnavailableError,
)
from services.generator.__main__ import main, rollout_store
from services.generator.rollout.current_rollout import (
    NOTHING_STORED,
    STORE_UNAVAILABLE,
    CurrentRollout,
    StoredRollout,
)
from services.generator.rollout.rollout import Candidate, ChangeKind, Deployment, Rollout
from services.generator.settings import GeneratorSettings
from services.generator.store.database import (
    METADATA,
    SCHEMA,
    RolloutRow,
    migrate,
    open_rollout_row,
)
from tests.services.generator.rollouts import rollouts
from tests.support.errors import refused

ROOT = Path(__file__).resolve().parents[4]
MIGRATE_COMMAND = "python -m services.generator migrate"
V1, V2 = (Rollout(stable=Deployment(version, f"/models/{version}")) for version in ("v1", "v2"))


async def execute(url: str, statement: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def test_a_stored_rollout_is_loaded_and_an_outdated_serial_replaces_nothing(
    database: str,
) -> None:
    async with open_rollout_row(database, 5) as row:
        assert await row.load() == NOTHING_STORED
        assert await row.replace(V1, 0)
        assert not await row.replace(V2, 0)
        assert await row.load() == StoredRollout(V1, 1)
        assert await row.replace(V2, 1)
        assert not await row.replace(V1, 1)
        assert await row.load() == StoredRollout(V2, 2)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rollout=rollouts)
async def test_every_rollout_survives_a_round_trip(database: str, rollout: Rollout) -> None:
    async with open_rollout_row(database, 5) as row:
        assert await row.replace(rollout, (await row.load()).serial)
        assert (await row.load()).rollout == rollout


class Colliding(RolloutRow):
    """A row that counts lost races against other replicas."""

    collisions = 0

    async def replace(self, rollout: Rollout, serial: int, act: Act | None = None) -> bool:
        replaced = await super().replace(rollout, serial, act)
        self.collisions += not replaced
        return replaced


async def test_concurrent_changes_of_two_replicas_are_not_lost(database: str) -> None:
    async with open_rollout_row(database, 5) as first, open_rollout_row(database, 5) as second:
        rows = [Colliding(row._engine) for row in (first, second)]
        replicas = [CurrentRollout(row, NOTHING_STORED, lambda: 0) for row in rows]
        names = [f"v{number}" for number in range(60)]
        await asyncio.gather(
            *(
                replicas[number % 2].change(
                    lambda rollout, name=name: rollout.retire(frozenset({name}))
                )
                for number, name in enumerate(names)
            )
        )
        stored = await first.load()
    assert sorted(stored.rollout.retired) == sorted(names)
    assert stored.serial == 60
    assert sum(row.collisions for row in rows) > 0, (
        "the replicas never collided, so the test is void"
    )


async def test_a_change_is_retried_on_the_rollout_of_the_other_replica(database: str) -> None:
    async with open_rollout_row(database, 5) as first, open_rollout_row(database, 5) as second:
        await first.replace(V1, 0)
        stored = await first.load()
        here, there = (CurrentRollout(row, stored, lambda: 0) for row in (first, second))
        await here.change(lambda rollout: rollout.propose(Candidate("v2", "/models/v2", 0.5, 100)))
        with refused(FailedPreconditionError, reason="ANOTHER_CANDIDATE"):
            await there.change(
                lambda rollout: rollout.propose(Candidate("v3", "/models/v3", 0.5, 100))
            )
        await there.change(lambda rollout: rollout.start("v2", 100, 0))
        assert (
            await here.change(lambda rollout: rollout.promote("v2", "", 1))
        ).stable == Deployment("v2", "/models/v2")
        await there.refresh()
        assert there.rollout == here.rollout


async def test_a_lease_expires_once_for_two_replicas(database: str) -> None:
    now_us = 0
    async with open_rollout_row(database, 5) as first, open_rollout_row(database, 5) as second:
        await first.replace(V1.propose(Candidate("v2", "/models/v2", 0.5, 100, live=True)), 0)
        stored = await first.load()
        pair = [
            CurrentRollout(Colliding(row._engine), stored, lambda: now_us)
            for row in (first, second)
        ]
        now_us = 100
        assert [current.rollout.candidate for current in pair] == [None, None], (
            "the lease ends at once, before anything is stored"
        )
        await asyncio.gather(*(current.refresh() for current in pair))
        assert [change.kind for change in (await first.load()).rollout.history] == [
            ChangeKind.LEASE_EXPIRED
        ]
        assert [current.rollout for current in pair] == [(await first.load()).rollout] * 2
        assert (await first.load()).serial == 2


async def test_a_rollout_of_a_newer_format_counts_as_unavailable(database: str) -> None:
    async with open_rollout_row(database, 5) as row:
        await row.replace(V1, 0)
        current = CurrentRollout(row, await row.load(), lambda: 7)
        await execute(
            database, """UPDATE generator_rollout SET serial = 2, content = '{"format": 3}'"""
        )
        await current.refresh()
        assert (current.rollout, current.stale_since_us) == (V1, 7)
        with pytest.raises(UnavailableError) as caught:
            await current.change(lambda rollout: V2)
    assert caught.value.reason == STORE_UNAVAILABLE


async def test_a_missing_rollout_counts_as_unavailable_until_it_is_restored(
    database: str,
) -> None:
    async with open_rollout_row(database, 5) as row:
        await row.replace(V1, 0)
        current = CurrentRollout(row, await row.load(), lambda: 7)
        await execute(database, "DELETE FROM generator_rollout")
        await current.refresh()
        assert (current.rollout, current.stale_since_us) == (V1, 7)
        with pytest.raises(UnavailableError) as caught:
            await current.change(lambda rollout: V2)
        assert caught.value.reason == STORE_UNAVAILABLE
        await row.replace(V1, 0)
        assert await current.change(lambda rollout: V2) == V2
        assert current.stale_since_us is None


async def test_an_empty_database_is_refused_with_the_migration_command(
    empty_database: str,
) -> None:
    async with open_rollout_row(empty_database, 5) as row:
        with refused(
            SchemaRevisionError, field="database_url", reason="MISMATCH", limit=SCHEMA.head
        ) as caught:
            await row.require_migrations()
    assert MIGRATE_COMMAND in caught.value.text


async def test_an_older_database_is_refused_and_a_newer_one_accepted(empty_database: str) -> None:
    await migrate(empty_database)
    async with open_rollout_row(empty_database, 5) as row:
        await execute(empty_database, "UPDATE generator_revision SET version_num = '0000'")
        with refused(
            SchemaRevisionError, field="database_url", reason="MISMATCH", limit=SCHEMA.head
        ) as caught:
            await row.require_migrations()
        assert "0000" in caught.value.text
        await execute(empty_database, "UPDATE generator_revision SET version_num = '9999'")
        await row.require_migrations()


async def test_concurrent_and_repeated_migrations_apply_once(
    empty_database: str,
) -> None:
    await asyncio.gather(*(migrate(empty_database) for _ in range(4)))
    async with open_rollout_row(empty_database, 5) as row:
        await row.require_migrations()
        await row.replace(V1, 0)
        await migrate(empty_database)
        assert await row.load() == StoredRollout(V1, 1)


async def test_a_database_whose_revision_was_set_back_is_migrated_again(
    empty_database: str,
) -> None:
    await migrate(empty_database)
    await execute(empty_database, "UPDATE generator_revision SET version_num = '0001'")
    await migrate(empty_database)
    async with open_rollout_row(empty_database, 5) as row:
        await row.require_migrations()


async def test_the_migrations_create_the_tables_of_the_code(database: str) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"version_table": SCHEMA.revision_table}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, METADATA))

    engine = create_async_engine(database)
    async with engine.begin() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def run(command: str, url: str) -> tuple[int | None, str]:
    """Run a command of the service; return exit status and standard error."""
    settings = {
        "TW_GENERATOR_DATABASE_URL": url,
        "TW_GENERATOR_PORT": "0",
        "TW_GENERATOR_METRICS_PORT": "0",
    }
    environment = {**os.environ, **settings, "PYTHONPATH": "gen"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.generator",
        command,
        cwd=ROOT,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, stderr.decode()


async def test_a_start_on_an_older_database_names_the_migration_command(
    empty_database: str,
) -> None:
    status, stderr = await run("serve", empty_database)
    assert status == 1
    assert len([line for line in stderr.splitlines() if " warning " not in line]) == 1
    assert SCHEMA.head in stderr
    assert MIGRATE_COMMAND in stderr
    assert (await run("migrate", empty_database))[0] == 0
    async with open_rollout_row(empty_database, 5) as row:
        await row.require_migrations()


async def test_a_replica_does_not_start_without_its_database() -> None:
    settings = GeneratorSettings(database_url="postgresql+asyncpg://nobody@127.0.0.1:1/none")
    with refused(UnavailableError, reason=STORE_UNAVAILABLE) as caught:
        async with rollout_store(settings):
            pass
    assert isinstance(caught.value.__cause__, OSError)


def test_a_rollout_in_a_file_needs_no_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generator", "migrate"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert "TW_GENERATOR_DATABASE_URL" in str(caught.value.code)
