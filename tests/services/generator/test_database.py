"""The rollout in a real Postgres: nobody replaces what they have not seen, and a database that is
behind is refused by name.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from services.chassis.errors import FailedPreconditionError, UnavailableError
from services.generator.__main__ import main, rollout_store
from services.generator.database import MIGRATE, REVISION, RolloutRow, open_rollout_row
from services.generator.migrate import alembic_config, migrate
from services.generator.rollout import Candidate, ChangeKind, Deployment, Rollout
from services.generator.settings import GeneratorSettings
from services.generator.traffic import (
    NOTHING_STORED,
    STORE_AWAY,
    Stored,
    Traffic,
    UnusableStoreError,
)
from tests.services.generator.test_store import rollouts
from tests.support.errors import refused

ROOT = Path(__file__).resolve().parents[3]
V1, V2 = (Rollout(stable=Deployment(version, f"/models/{version}")) for version in ("v1", "v2"))


async def execute(url: str, statement: str) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def test_what_is_stored_is_loaded_and_who_knows_an_older_rollout_replaces_nothing(
    database: str,
) -> None:
    async with open_rollout_row(database, 5) as row:
        assert await row.load() == NOTHING_STORED
        assert await row.replace(V1, 0)
        assert not await row.replace(V2, 0)
        assert await row.load() == Stored(V1, 1)
        assert await row.replace(V2, 1)
        assert not await row.replace(V1, 1)
        assert await row.load() == Stored(V2, 2)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rollout=rollouts)
async def test_every_rollout_comes_back_as_it_was(database: str, rollout: Rollout) -> None:
    async with open_rollout_row(database, 5) as row:
        assert await row.replace(rollout, (await row.load()).serial)
        assert (await row.load()).rollout == rollout


class Colliding(RolloutRow):
    """Counts how often somebody else was faster."""

    collisions = 0

    async def replace(self, rollout: Rollout, serial: int) -> bool:
        done = await super().replace(rollout, serial)
        self.collisions += not done
        return done


async def test_two_replicas_that_change_at_once_lose_none_of_their_changes(database: str) -> None:
    async with open_rollout_row(database, 5) as first, open_rollout_row(database, 5) as second:
        rows = [Colliding(row._engine) for row in (first, second)]
        replicas = [Traffic(row, NOTHING_STORED, lambda: 0) for row in rows]
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
    assert sum(row.collisions for row in rows) > 0, "they never met, so this test has shown nothing"


async def test_a_change_runs_again_on_what_the_other_replica_stored(database: str) -> None:
    async with open_rollout_row(database, 5) as first, open_rollout_row(database, 5) as second:
        await first.replace(V1, 0)
        stored = await first.load()
        here, there = (Traffic(row, stored, lambda: 0) for row in (first, second))
        await here.change(lambda rollout: rollout.propose(Candidate("v2", "/models/v2", 0.5, 100)))
        with refused(FailedPreconditionError, reason="ANOTHER_CANDIDATE"):
            await there.change(
                lambda rollout: rollout.propose(Candidate("v3", "/models/v3", 0.5, 100))
            )
        await there.change(lambda rollout: rollout.begin("v2", 100, 0))
        assert (
            await here.change(lambda rollout: rollout.promote("v2", "", 1))
        ).stable == Deployment("v2", "/models/v2")
        await there.refresh()
        assert there.rollout == here.rollout


async def test_a_lease_that_two_replicas_see_end_ends_once(database: str) -> None:
    now_us = 0
    async with open_rollout_row(database, 5) as first, open_rollout_row(database, 5) as second:
        await first.replace(V1.propose(Candidate("v2", "/models/v2", 0.5, 100, live=True)), 0)
        stored = await first.load()
        pair = [Traffic(Colliding(row._engine), stored, lambda: now_us) for row in (first, second)]
        now_us = 100
        assert [traffic.rollout.candidate for traffic in pair] == [None, None], (
            "at once, before anything is stored"
        )
        await asyncio.gather(*(traffic.refresh() for traffic in pair))
        assert [change.kind for change in (await first.load()).rollout.history] == [
            ChangeKind.LEASE_EXPIRED
        ]
        assert [traffic.rollout for traffic in pair] == [(await first.load()).rollout] * 2
        assert (await first.load()).serial == 2


async def test_a_rollout_of_a_newer_format_counts_as_away(database: str) -> None:
    async with open_rollout_row(database, 5) as row:
        await row.replace(V1, 0)
        traffic = Traffic(row, await row.load(), lambda: 7)
        await execute(
            database, """UPDATE generator_rollout SET serial = 2, content = '{"format": 2}'"""
        )
        await traffic.refresh()
        assert (traffic.rollout, traffic.stale_since_us) == (V1, 7)
        with pytest.raises(UnavailableError) as caught:
            await traffic.change(lambda rollout: V2)
    assert caught.value.reason == STORE_AWAY


async def test_a_rollout_that_is_gone_counts_as_away_until_one_is_there_again(
    database: str,
) -> None:
    async with open_rollout_row(database, 5) as row:
        await row.replace(V1, 0)
        traffic = Traffic(row, await row.load(), lambda: 7)
        await execute(database, "DELETE FROM generator_rollout")
        await traffic.refresh()
        assert (traffic.rollout, traffic.stale_since_us) == (V1, 7)
        with pytest.raises(UnavailableError) as caught:
            await traffic.change(lambda rollout: V2)
        assert caught.value.reason == STORE_AWAY
        await row.replace(V1, 0)
        assert await traffic.change(lambda rollout: V2) == V2
        assert traffic.stale_since_us is None


async def test_an_empty_database_is_refused_with_the_command_that_helps(
    empty_database: str,
) -> None:
    async with open_rollout_row(empty_database, 5) as row:
        with refused(
            UnusableStoreError, field="database_url", reason="MISMATCH", limit=REVISION
        ) as caught:
            await row.require_migrations()
    assert MIGRATE in caught.value.text


async def test_a_database_behind_is_refused_and_one_ahead_is_not(empty_database: str) -> None:
    await migrate(empty_database)
    async with open_rollout_row(empty_database, 5) as row:
        await execute(empty_database, "UPDATE generator_revision SET version_num = '0000'")
        with refused(
            UnusableStoreError, field="database_url", reason="MISMATCH", limit=REVISION
        ) as caught:
            await row.require_migrations()
        assert "0000" in caught.value.text
        await execute(empty_database, "UPDATE generator_revision SET version_num = '9999'")
        await row.require_migrations()


async def test_several_who_migrate_at_once_and_again_change_nothing_twice(
    empty_database: str,
) -> None:
    await asyncio.gather(*(migrate(empty_database) for _ in range(4)))
    async with open_rollout_row(empty_database, 5) as row:
        await row.require_migrations()
        await row.replace(V1, 0)
        await migrate(empty_database)
        assert await row.load() == Stored(V1, 1)


def test_the_revision_that_a_start_compares_is_the_last_step() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_current_head() == REVISION


async def test_the_steps_make_the_tables_that_the_code_uses(database: str) -> None:
    def compare(connection: Connection) -> None:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.check(config)

    engine = create_async_engine(database)
    async with engine.begin() as connection:
        await connection.run_sync(compare)
    await engine.dispose()


async def run(command: str, url: str) -> tuple[int | None, str]:
    """Exit code and what was said."""
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
    _, said = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode()


async def test_a_start_on_a_database_that_is_behind_names_the_command_and_the_command_helps(
    empty_database: str,
) -> None:
    status, said = await run("serve", empty_database)
    assert status == 1
    assert said.count("\n") == 1
    assert REVISION in said
    assert MIGRATE in said
    assert (await run("migrate", empty_database))[0] == 0
    async with open_rollout_row(empty_database, 5) as row:
        await row.require_migrations()


async def test_without_its_database_a_replica_does_not_start() -> None:
    settings = GeneratorSettings(database_url="postgresql+asyncpg://nobody@127.0.0.1:1/none")
    with refused(UnavailableError, reason=STORE_AWAY) as caught:
        async with rollout_store(settings):
            pass
    assert isinstance(caught.value.__cause__, OSError)


def test_a_rollout_in_a_file_needs_no_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generator", "migrate"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert "TW_GENERATOR_DATABASE_URL" in str(caught.value.code)
