"""Exposures: written once for any order of logs, rebuilt from objects, combined with thumbs."""

import asyncio
import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, create_engine, delete, select
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.projections.experiments import (
    ALPHA,
    NEWEST_VERSIONS,
    ArmFigures,
    ExperimentMetrics,
    Experiments,
    Interval,
    catch_up,
    fold,
    interval,
    log_likelihood,
    log_mixture,
    refresh_periodically,
)
from services.feedback.projections.thumbs import ThumbCount
from services.feedback.sink import Fold, no_projection
from services.feedback.spool.spool import Spool
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError
from tests.services.feedback.samples import ADA, KEY, TURNS, turn
from tests.services.feedback.sunk_logs import SunkLogs

BOB = Caller("acme", "bob")


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


class World(SunkLogs):
    """Sunk turns and the experiments over one database."""

    def __init__(self, root: Path, engine: Engine) -> None:
        super().__init__(root, engine)
        self.said = FakeThumbCounts()
        self.experiments = Experiments(engine, self.said)

    def sink(
        self, *turns: events_pb2.TurnEvent, by: Fold[Any] = fold, on: Spool | None = None
    ) -> Spool:
        """Sink turns through a new log, or through an existing log."""
        return self.sink_entries(TURNS, map(codec.turn_entry, turns), by, on)

    def rows(self) -> set[tuple[str, str, str, int]]:
        with self.engine.begin() as connection:
            return {tuple(row) for row in connection.execute(select(tables.exposures))}


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


COUNTS = [(0, 0), (1, 0), (0, 1), (7, 3), (40, 60), (195, 5), (150, 150)]


@pytest.mark.parametrize(("up", "down"), COUNTS)
def test_the_mixture_is_the_mean_likelihood_over_all_rates(up: int, down: int) -> None:
    rates = (np.arange(100_000) + 0.5) / 100_000
    mean = np.mean(rates**up * (1 - rates) ** down)
    assert log_mixture(up, down) == pytest.approx(math.log(mean), abs=1e-6)


@pytest.mark.parametrize(("up", "down"), COUNTS[1:])
def test_the_likelihood_is_the_product_of_the_trials(up: int, down: int) -> None:
    assert log_likelihood(up, down, 0.3) == pytest.approx(math.log(0.3**up * 0.7**down))


@pytest.mark.parametrize(("up", "down"), COUNTS[1:])
def test_an_interval_contains_the_rate_and_ends_at_the_threshold(up: int, down: int) -> None:
    found = interval(up, down)
    assert 0 <= found.low <= up / (up + down) <= found.high <= 1
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert math.exp(log_mixture(up, down) - log_likelihood(up, down, end)) == pytest.approx(
                1 / ALPHA
            )


def test_the_interval_is_full_without_thumbs_and_shrinks_with_more() -> None:
    assert interval(0, 0) == Interval(0, 1)
    assert interval(9, 0).high == 1
    assert interval(0, 9).low == 0
    widths = [
        interval(6 * n, 4 * n).high - interval(6 * n, 4 * n).low
        for n in (1, 10, 100, 10_000, 1_000_000)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.005


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_looking_after_every_thumb_keeps_the_error_rate(
    rate: float,
) -> None:
    chance, experiments, missed = random.Random(7), 400, 0
    for _ in range(experiments):
        up = down = 0
        for _ in range(300):
            said = chance.random() < rate
            up, down = up + said, down + (not said)
            if log_mixture(up, down) - log_likelihood(up, down, rate) >= math.log(1 / ALPHA):
                missed += 1
                break
    assert missed <= experiments * ALPHA
    # Without any error the interval would be too wide; here the error is near the promise from
    # below.
    assert missed >= 1


def test_a_fixed_sample_interval_would_exceed_the_error_rate() -> None:
    chance, experiments, missed = random.Random(7), 400, 0
    for _ in range(experiments):
        up = 0
        for number in range(1, 301):
            up += chance.random() < 0.5
            if number >= 10 and abs(up / number - 0.5) > 1.96 * math.sqrt(0.25 / number):
                missed += 1
                break
    assert missed > 3 * experiments * ALPHA


STABLE = ArmFigures("v1", "stable", 5, 1, 30, 10)
SILENT = ArmFigures("v2", "candidate", 2, 2, 0, 0)


class Source:
    """Source with prepared results; an exception is raised."""

    def __init__(self, *answers: list[ArmFigures] | Exception) -> None:
        self._answers, self.asked = list(answers), asyncio.Event()

    async def figures(self, since_us: int = 0) -> list[ArmFigures]:
        if len(self._answers) == 1:
            self.asked.set()
        answer = self._answers[0] if len(self._answers) == 1 else self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def value(shown: ExperimentMetrics, name: str, version: str, arm: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(shown)
    return registry.get_sample_value(
        f"thumbwheel_experiment_{name}", {"version": version, "arm": arm}
    )


def test_an_arm_has_users_thumbs_ratio_and_interval() -> None:
    shown = ExperimentMetrics()
    shown.update([STABLE, SILENT])
    assert value(shown, "exposed_users", "v1", "stable") == 5
    assert value(shown, "thumbs", "v1", "stable") == 40
    assert value(shown, "thumbs_up_ratio", "v1", "stable") == 0.75
    assert value(shown, "thumbs_up_low_ratio", "v1", "stable") == pytest.approx(
        STABLE.up_rate_interval.low
    )
    assert value(shown, "thumbs_up_high_ratio", "v1", "stable") == pytest.approx(
        STABLE.up_rate_interval.high
    )


def test_without_thumbs_there_is_no_ratio_and_the_interval_is_full() -> None:
    shown = ExperimentMetrics()
    shown.update([SILENT])
    assert value(shown, "thumbs_up_ratio", "v2", "candidate") is None
    assert value(shown, "thumbs_up_low_ratio", "v2", "candidate") == 0
    assert value(shown, "thumbs_up_high_ratio", "v2", "candidate") == 1


async def test_an_unavailable_database_keeps_the_last_figures() -> None:
    shown, source = ExperimentMetrics(), Source([STABLE], LedgerUnavailableError("away"))
    looking = asyncio.create_task(refresh_periodically(source, shown, 0.001))
    await asyncio.wait_for(source.asked.wait(), 5)
    assert value(shown, "thumbs", "v1", "stable") == 40
    assert not looking.done()
    looking.cancel()
