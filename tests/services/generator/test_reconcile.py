"""Reconciling, round by round, with a clock of our own: leases, the rollout file, a model server that is busy."""

from dataclasses import dataclass, field

import pytest

from services.chassis.errors import FailedPreconditionError, UnavailableError
from services.generator.canary import Canaries
from services.generator.reconcile import Reconciler, State
from services.generator.rollout import Candidate, ChangeKind, Deployment, Rollout
from services.generator.running import Running
from services.generator.traffic import Traffic

SECOND = 1_000_000


@dataclass
class Disk:
    saved: list[Rollout] = field(default_factory=list)
    full: bool = False

    def save(self, rollout: Rollout) -> None:
        if self.full:
            raise OSError("no space left on device")
        self.saved.append(rollout)


@dataclass
class Repository:
    """Holds versions in memory; `busy` refuses everything but the index."""

    versions: dict[str, bool] = field(default_factory=dict)
    busy: bool = False
    loads: list[str] = field(default_factory=list)

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
        del self.versions[version]


class World:
    """A rollout with a live candidate whose lease ends at second 60, and what surrounds it."""

    def __init__(self) -> None:
        self.now_us = 0
        self.disk, self.repository, self.running = Disk(), Repository(), Running()
        stable = Rollout(stable=Deployment("v1", "/models/v1"))
        candidate = Candidate("v2", "/models/v2", 0.5, 60 * SECOND, live=True)
        rollout = stable.propose(candidate)
        self.traffic = Traffic(rollout, self.disk, lambda: self.now_us)
        self.reconciler = Reconciler(self.traffic, self.repository, self.running, 0.01, 0.01)

    async def rounds(self, number: int = 4) -> None:
        """Enough for what one round begins to show in another."""
        for _ in range(number):
            await self.reconciler.round()


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
    assert world.disk.saved[-1] == world.traffic.rollout


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


async def test_a_change_that_cannot_be_written_does_not_happen() -> None:
    world = World()
    world.disk.full = True
    with pytest.raises(OSError, match="no space"):
        await world.traffic.change(lambda rollout: rollout.promote("v2", "wins", 1))
    assert world.traffic.rollout.stable == Deployment("v1", "/models/v1")


async def test_a_version_that_answers_already_starts_without_a_load_of_our_own() -> None:
    world = World()
    world.repository.versions = {"v1": True, "v2": True}
    await world.rounds()
    await world.reconciler.wait_ready("v2")
    assert world.repository.loads == []
