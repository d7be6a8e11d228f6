"""Reconciling, round by round, with a clock of our own: leases, other replicas, a store or a model
server that is away.
"""

import asyncio
from dataclasses import dataclass, field

import pytest

from services.chassis.errors import FailedPreconditionError, UnavailableError
from services.generator.canary import Canaries
from services.generator.reconcile import Pace, Reconciler, State
from services.generator.rollout import Candidate, ChangeKind, Deployment, Rollout
from services.generator.running import Running
from services.generator.traffic import STORE_AWAY, Stored, Traffic

SECOND = 1_000_000


class Shelf:
    """A store in memory, which several replicas may share; it may be away."""

    def __init__(self, rollout: Rollout) -> None:
        self.stored = Stored(rollout, 1)
        self.away = False

    async def load(self) -> Stored:
        if self.away:
            raise UnavailableError("away", reason=STORE_AWAY)
        return self.stored

    async def replace(self, rollout: Rollout, serial: int) -> bool:
        if serial != (await self.load()).serial:
            return False
        self.stored = Stored(rollout, serial + 1)
        return True


@dataclass
class Repository:
    """Holds versions in memory; `busy` refuses everything but the index, `in_use` refuses to let
    go.
    """

    versions: dict[str, bool] = field(default_factory=dict)
    busy: bool = False
    in_use: set[str] = field(default_factory=set)
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)

    async def index(self) -> dict[str, bool]:
        return dict(self.versions)

    async def load(self, version: str, directory: str) -> None:
        self.loads.append(version)
        if self.busy:
            raise UnavailableError("busy")
        self.versions[version] = True

    async def unload(self, version: str) -> None:
        if self.busy:
            raise UnavailableError("busy")
        if version in self.in_use:
            raise FailedPreconditionError("in use")
        self.unloads.append(version)
        del self.versions[version]


class Replica:
    """One generator's view of the shelf and of the model server."""

    def __init__(self, world: "World", grace_seconds: float) -> None:
        self.running = Running()
        self.traffic = Traffic(world.shelf, world.shelf.stored, lambda: world.now_us)
        self.reconciler = Reconciler(
            self.traffic, world.repository, self.running, Pace(0.01, 0.01, grace_seconds)
        )

    async def rounds(self, number: int = 4) -> None:
        """Enough for what one round begins to show in another."""
        for _ in range(number):
            await self.traffic.refresh()
            await self.reconciler.round()


class World(Replica):
    """A rollout with a live candidate whose lease ends at second 60, and what surrounds it, one
    replica of ours included.
    """

    def __init__(self, grace_seconds: float = 0.0) -> None:
        self.now_us = 0
        stable = Rollout(stable=Deployment("v1", "/models/v1"))
        candidate = Candidate("v2", "/models/v2", 0.5, 60 * SECOND, live=True)
        self.shelf, self.repository = Shelf(stable.propose(candidate)), Repository()
        super().__init__(self, grace_seconds)


async def test_what_is_wanted_is_loaded_once_and_then_left_alone() -> None:
    world = World()
    await world.rounds()
    assert world.repository.versions == {"v1": True, "v2": True}
    await world.rounds()
    assert sorted(world.repository.loads) == ["v1", "v2"]


async def test_a_lease_that_nobody_renews_ends_the_canary_and_unloads_it() -> None:
    world = World()
    await world.rounds()
    world.now_us = 59 * SECOND
    await world.rounds()
    assert world.traffic.rollout.candidate is not None
    world.now_us = 60 * SECOND
    await world.rounds()
    assert world.traffic.rollout.candidate is None
    assert world.traffic.rollout.history[0].kind is ChangeKind.LEASE_EXPIRED
    assert world.repository.versions == {"v1": True}
    assert world.traffic.rollout.retired == ()
    assert world.shelf.stored.rollout == world.traffic.rollout


async def test_a_renewed_lease_counts_from_now() -> None:
    world = World()
    await world.rounds()
    world.now_us = 59 * SECOND
    canaries = Canaries(world.traffic, world.reconciler, load_seconds=60)
    await canaries.renew("v2", 30)
    world.now_us = 88 * SECOND
    await world.rounds()
    assert world.traffic.rollout.candidate is not None
    world.now_us = 89 * SECOND
    with pytest.raises(FailedPreconditionError):
        await canaries.renew("v2", 30)


async def test_after_an_expired_lease_another_candidate_may_start_at_once() -> None:
    world = World()
    world.now_us = 61 * SECOND
    fresh = Candidate("v3", "/models/v3", 0.1, 100 * SECOND)
    rollout = await world.traffic.change(lambda rollout: rollout.propose(fresh))
    assert rollout.candidate == fresh
    assert rollout.history[0].kind is ChangeKind.LEASE_EXPIRED


async def test_a_retired_version_is_unloaded_only_after_its_last_answer() -> None:
    world = World()
    await world.rounds()
    with world.running.one("v1"):
        await world.traffic.change(lambda rollout: rollout.promote("v2", "wins", 1))
        await world.rounds()
        assert "v1" in world.repository.versions
    await world.rounds()
    assert world.repository.versions == {"v2": True}


async def test_a_busy_model_server_is_asked_again() -> None:
    world = World()
    world.repository.busy = True
    await world.rounds()
    assert world.reconciler.status("v1").state is State.LOADING
    world.repository.busy = False
    await world.rounds()
    assert world.reconciler.status("v1").state is State.READY


async def test_what_another_replica_answers_with_is_not_unloaded() -> None:
    world = World()
    await world.rounds()
    await world.traffic.change(lambda rollout: rollout.promote("v2", "wins", 1))
    world.repository.in_use = {"v1"}
    await world.rounds()
    assert (world.repository.versions, world.traffic.rollout.retired) == (
        {"v1": True, "v2": True},
        ("v1",),
    )
    world.repository.in_use = set()
    await world.rounds()
    assert (world.repository.versions, world.traffic.rollout.retired) == ({"v2": True}, ())


async def test_a_retired_version_stays_until_all_replicas_must_know() -> None:
    world = World(grace_seconds=60)
    await world.rounds()
    await world.traffic.change(lambda rollout: rollout.promote("v2", "wins", 1))
    await world.rounds()
    assert "v1" in world.repository.versions
    world.repository.versions.clear()
    await world.rounds()
    assert world.traffic.rollout.retired == ("v1",), "somebody may be loading it just now"


async def test_a_version_that_comes_back_on_trial_is_not_unloaded_by_who_did_not_know_yet() -> None:
    world = World()
    await world.rounds()
    await world.traffic.change(lambda rollout: rollout.roll_back("v2", "worse", 1))
    late = asyncio.create_task(
        world.reconciler.round()
    )  # decides to unload, and acts after the next lines
    await asyncio.sleep(0)
    again = Candidate("v2", "/models/v2", 0.5, 60 * SECOND)
    world.shelf.stored = Stored(
        world.shelf.stored.rollout.propose(again), world.shelf.stored.serial + 1
    )
    await late
    await world.rounds()
    assert world.repository.unloads == []


async def test_without_the_store_nothing_is_unloaded_but_what_is_missing_is_loaded() -> None:
    world = World()
    await world.rounds()
    await world.traffic.change(lambda rollout: rollout.promote("v2", "wins", 1))
    world.shelf.away = True
    del world.repository.versions["v2"]
    await world.rounds()
    assert world.repository.versions == {"v1": True, "v2": True}
    world.shelf.away = False
    await world.rounds()
    assert world.repository.versions == {"v2": True}


async def test_what_a_replica_loaded_by_an_old_rollout_is_cleared_away_when_it_learns_the_new_one() -> (
    None
):
    world = World()
    await world.rounds()
    world.repository.versions.clear()  # the model server was restarted
    world.shelf.away = True
    await world.rounds()
    assert world.repository.versions == {"v1": True, "v2": True}
    newer = Rollout(stable=Deployment("v2", "/models/v2"))
    world.shelf.stored, world.shelf.away = Stored(newer, 9), False
    await world.rounds()
    assert world.repository.versions == {"v2": True}
    assert world.traffic.rollout == newer


async def test_a_lease_that_two_replicas_see_end_ends_once() -> None:
    world = World()
    other = Replica(world, 0.0)
    world.now_us = 60 * SECOND
    await asyncio.gather(world.rounds(), other.rounds())
    assert [change.kind for change in world.shelf.stored.rollout.history] == [
        ChangeKind.LEASE_EXPIRED
    ]
    assert world.traffic.rollout == other.traffic.rollout == world.shelf.stored.rollout


async def test_a_version_that_answers_already_starts_without_a_load_of_our_own() -> None:
    world = World()
    world.repository.versions = {"v1": True, "v2": True}
    await world.rounds()
    await world.reconciler.wait_ready("v2")
    assert world.repository.loads == []
