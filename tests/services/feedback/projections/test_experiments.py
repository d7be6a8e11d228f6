"""Exposures: written once for any order of logs, rebuilt from objects, combined with thumbs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, select
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.projections.confidence import interval
from services.feedback.projections.experiments import NEWEST_VERSIONS, Experiments, catch_up, fold
from services.feedback.projections.thumbs import ThumbCount
from services.feedback.sink.sink import FlushLimits, Fold, Sink, no_projection
from services.feedback.spool.spool import Spool
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError
from tests.services.feedback.samples import ADA, KEY, TURNS, turn

BOB = Caller("acme", "bob")
ROOM = 1 << 20


@dataclass
class FakeThumbCounts:
    """Fake thumb counts that record the requested time."""

    counts: list[ThumbCount] = field(default_factory=list)
    since_us: int = -1

    async def count(self, since_us: int) -> list[ThumbCount]:
        self.since_us = since_us
        return self.counts


def met(
    message: str, version: str, caller: Caller = ADA, at: int = 2_000, arm: str = "stable"
) -> events_pb2.TurnEvent:
    event = turn(message=message)
    event.principal, event.model_version, event.arm = principal_of(KEY, caller), version, arm
    event.finish_time.FromSeconds(at)
    return event


class World:
    """Spool of turns and its sink over one database."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.engine, self.ledger, self.store = engine, Ledger(engine), Directory(root / "objects")
        self.said, self.root = FakeThumbCounts(), root
        self.experiments = Experiments(engine, self.said)
        self.spools: list[Spool] = []

    def sink(
        self, *turns: events_pb2.TurnEvent, by: Fold[Any] = fold, on: Spool | None = None
    ) -> Spool:
        """Sink events through a new log, like another partition, or through an existing log."""
        spool = on or Spool(
            self.root / f"spool-{len(self.spools)}", max_bytes=ROOM, segment_bytes=ROOM
        )
        if not on:
            self.spools.append(spool)
        spool.append([codec.turn_entry(turn) for turn in turns])
        sink = Sink(TURNS, spool, self.store, self.ledger, FlushLimits(100, ROOM), by)
        sink.assign()
        sink.flush()
        return spool

    def rows(self) -> set[tuple[str, str, str, int]]:
        with self.engine.begin() as connection:
            return {tuple(row) for row in connection.execute(select(tables.exposures))}

    def close(self) -> None:
        for spool in self.spools:
            spool.close()


@pytest.fixture
def world(tmp_path: Path, engine: Engine):
    world = World(tmp_path, engine)
    yield world
    world.close()


def exposed(
    caller: Caller, version: str, at: int, arm: str = "stable"
) -> tuple[str, str, str, int]:
    return principal_of(KEY, caller), version, arm, at * 1_000_000


def test_a_user_is_exposed_once_per_version(world: World) -> None:
    world.sink(met("a", "v1", at=20), met("b", "v1", at=10), met("c", "v1", BOB, at=15))
    world.sink(met("d", "v1", at=30), met("e", "v2", at=40, arm="candidate"))
    expected = {exposed(ADA, "v1", 10), exposed(BOB, "v1", 15), exposed(ADA, "v2", 40, "candidate")}
    assert world.rows() == expected


def test_an_earlier_turn_arriving_later_is_the_first_exposure(world: World) -> None:
    world.sink(met("a", "v1", at=20))
    world.sink(met("b", "v1", at=5))
    assert world.rows() == {exposed(ADA, "v1", 5)}


def test_a_turn_without_a_version_is_no_exposure(world: World) -> None:
    world.sink(met("a", "", at=20, arm=""))
    assert world.rows() == set()


def test_exposures_are_rebuilt_from_the_objects_and_only_then(world: World) -> None:
    world.sink(met("a", "v1", at=20), met("c", "v1", BOB, at=15))
    world.sink(met("b", "v1", at=5))
    before = world.rows()
    assert not catch_up(world.ledger, world.store, "turns")
    with world.engine.begin() as connection:
        connection.execute(delete(tables.exposures))
        connection.execute(delete(tables.exposure_positions))
    assert catch_up(world.ledger, world.store, "turns")
    assert world.rows() == before
    assert not catch_up(world.ledger, world.store, "turns")


@pytest.mark.parametrize("first", [fold, no_projection], ids=["in between", "from the beginning"])
def test_commits_of_an_older_release_trigger_a_rebuild(world: World, first: Fold[Any]) -> None:
    log = world.sink(met("a", "v1", at=1), by=first)
    world.sink(met("b", "v2", at=2), by=no_projection, on=log)
    world.sink(met("c", "v3", at=3), on=log)
    assert catch_up(world.ledger, world.store, "turns")
    assert world.rows() == {exposed(ADA, "v1", 1), exposed(ADA, "v2", 2), exposed(ADA, "v3", 3)}
    world.sink(met("d", "v4", at=4), on=log)
    assert not catch_up(world.ledger, world.store, "turns")


async def test_figures_combine_users_and_thumbs_newest_version_first(world: World) -> None:
    world.sink(
        met("a", "v1", at=10), met("b", "v1", BOB, at=11), met("c", "v2", at=20, arm="candidate")
    )
    world.said.counts = [
        ThumbCount("v1", "stable", 30, 10),
        ThumbCount("forgotten", "stable", 1, 0),
    ]
    candidate, stable = await world.experiments.figures()
    assert (candidate.model_version, candidate.arm, candidate.exposed_users) == (
        "v2",
        "candidate",
        1,
    )
    assert (candidate.up, candidate.down, candidate.up_rate) == (0, 0, 0)
    assert (candidate.up_rate_interval.low, candidate.up_rate_interval.high) == (0, 1)
    assert (stable.model_version, stable.exposed_users, stable.first_us) == ("v1", 2, 10_000_000)
    assert (stable.up_rate, stable.up_rate_interval) == (0.75, interval(30, 10))


async def test_figures_count_from_a_time_on(world: World) -> None:
    world.sink(met("a", "v1", at=10), met("b", "v1", BOB, at=20))
    (since,) = await world.experiments.figures(15_000_000)
    assert (since.exposed_users, world.said.since_us) == (1, 15_000_000)
    assert await world.experiments.figures(30_000_000) == []


async def test_figures_cover_only_the_newest_versions(world: World) -> None:
    world.sink(
        *(met(f"m{number}", f"v{number}", at=number + 1) for number in range(NEWEST_VERSIONS + 3))
    )
    found = [one.model_version for one in await world.experiments.figures()]
    assert found == [f"v{number}" for number in range(NEWEST_VERSIONS + 2, 2, -1)]


async def test_a_stopped_database_is_unavailable(tmp_path: Path) -> None:
    nowhere = create_engine(f"sqlite:///{tmp_path}/missing/ledger.db")
    with pytest.raises(LedgerUnavailableError):
        await Experiments(nowhere, FakeThumbCounts()).figures()
    nowhere.dispose()
