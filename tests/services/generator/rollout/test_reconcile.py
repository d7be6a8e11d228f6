"""The reconcile loop round by round, with a clock of the test.

The cases cover leases, other replicas, and an unavailable store or model server.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from services.chassis.audit.acts import Act
from services.chassis.errors import FailedPreconditionError, UnavailableError
from services.generator.rollout.canary import CanaryController
from services.generator.rollout.current_rollout import (
    STORE_UNAVAILABLE,
    CurrentRollout,
    StoredRollout,
)
from services.generator.rollout.reconcile import (
    ReconcileIntervals,
    Reconciler,
    RunningGenerations,
    State,
)
from services.generator.rollout.rollout import (
    Candidate,
    ChangeKind,
    Deployment,
    Rollout,
    WatchTerms,
)

SECOND = 1_000_000


class MemoryStore:
    """Store in memory, shared by replicas; unavailable while `away` is set."""

    def __init__(self, rollout: Rollout) -> None:
        self.stored = StoredRollout(rollout, 1)
        self.away = False

    async def load(self) -> StoredRollout:
        if self.away:
            raise UnavailableError("away", reason=STORE_UNAVAILABLE)
        return self.stored

    async def replace(self, rollout: Rollout, serial: int, act: Act | None = None) -> bool:
        if serial != (await self.load()).serial:
            return False
        self.stored = StoredRollout(rollout, serial + 1)
        return True


@dataclass
class Repository:
    """Model server in memory.

    Args:
        busy: reject all calls except the index.
        in_use: versions that are not unloaded.
        base_of: bases of versions that are adapters.
    """

    versions: dict[str, bool] = field(default_factory=dict)
    busy: bool = False
    in_use: set[str] = field(default_factory=set)
    base_of: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    repairs: list[tuple[str, str]] = field(default_factory=list)

    async def index(self) -> dict[str, bool]:
        return dict(self.versions)

    async def load(self, version: str, directory: str) -> None:
        self.loads.append(version)
        if self.busy:
            raise UnavailableError("busy")
        self.versions[version] = True

    async def load_missing(self, version: str, directory: str) -> None:
        self.repairs.append((version, directory))

    async def unload(self, version: str) -> None:
        if self.busy:
            raise UnavailableError("busy")
        if version in self.in_use:
            raise FailedPreconditionError("in use")
        self.unloads.append(version)
        del self.versions[version]

    async def bases(self, wanted: Mapping[str, str]) -> frozenset[str]:
        return frozenset(self.base_of[version] for version in wanted if version in self.base_of)


class Replica:
    """One generator with the shared store and model server."""

    def __init__(self, world: "World", grace_seconds: float) -> None:
        self.running = RunningGenerations()
        self.current = CurrentRollout(world.store, world.store.stored, lambda: world.now_us)
        self.reconciler = Reconciler(
            self.current,
            world.repository,
            self.running,
            ReconcileIntervals(0.01, 0.01, grace_seconds),
        )

    async def rounds(self, number: int = 4) -> None:
        """Run several rounds, since one round may show its effect only in a later one."""
        for _ in range(number):
            await self.current.refresh()
            await self.reconciler.round()


class World(Replica):
    """A replica and its surroundings, with a live candidate whose lease ends at second 60."""

    def __init__(self, grace_seconds: float = 0.0) -> None:
        self.now_us = 0
        stable = Rollout(stable=Deployment("v1", "/models/v1"))
        candidate = Candidate("v2", "/models/v2", 0.5, 60 * SECOND, live=True)
        self.store, self.repository = MemoryStore(stable.propose(candidate)), Repository()
        super().__init__(self, grace_seconds)


async def test_versions_of_the_rollout_are_loaded_once() -> None:
    world = World()
    await world.rounds()
    assert world.repository.versions == {"v1": True, "v2": True}
    await world.rounds()
    assert sorted(world.repository.loads) == ["v1", "v2"]


async def test_versions_that_are_ready_are_completed_in_every_replica() -> None:
    world = World()
    await world.rounds()
    assert {("v1", "/models/v1"), ("v2", "/models/v2")} <= {*world.repository.repairs}
    store = world.store
    store.stored = StoredRollout(world.current.rollout.promote("v2", "better", 0), 5)
    await world.rounds()
    world.repository.repairs.clear()
    await world.rounds()
    assert {version for version, _ in world.repository.repairs} == {"v2"}


async def test_base_stays_loaded_as_long_as_its_adapters() -> None:
    world = World()
    world.repository.base_of = {"v2": "v1"}
    await world.rounds()
    store, reason = world.store, "better"
    store.stored = StoredRollout(world.current.rollout.promote("v2", reason, 0), 5)
    await world.rounds()
    assert world.repository.versions == {"v1": True, "v2": True}
    assert world.current.rollout.retired == ("v1",)
    whole = Candidate("v3", "/models/v3", 0.5, 60 * SECOND, live=True)
    store.stored = StoredRollout(world.current.rollout.propose(whole), 9)
    await world.rounds()
    assert world.repository.unloads == []
    store.stored = StoredRollout(world.current.rollout.promote("v3", reason, 0), 13)
    await world.rounds()
    assert world.repository.versions == {"v3": True}


async def test_base_outside_the_rollout_is_unloaded_after_its_adapter() -> None:
    world = World()
    world.repository.base_of = {"v2": "v0"}
    world.repository.versions["v0"] = True  # loaded for the adapter
    await world.rounds()
    assert world.repository.versions == {"v0": True, "v1": True, "v2": True}
    # The shared rollout names it, so that another replica can unload it.
    assert world.store.stored.rollout.retired == ("v0",)
    world.now_us = 60 * SECOND
    await world.rounds()
    assert world.repository.versions == {"v1": True}


async def test_an_expired_lease_ends_the_canary_and_unloads_the_version() -> None:
    world = World()
    await world.rounds()
    world.now_us = 59 * SECOND
    await world.rounds()
    assert world.current.rollout.candidate is not None
    world.now_us = 60 * SECOND
    await world.rounds()
    assert world.current.rollout.candidate is None
    assert world.current.rollout.history[0].kind is ChangeKind.LEASE_EXPIRED
    assert world.repository.versions == {"v1": True}
    assert world.current.rollout.retired == ()
    assert world.store.stored.rollout == world.current.rollout


async def test_a_renewed_lease_starts_at_the_present_time() -> None:
    world = World()
    await world.rounds()
    world.now_us = 59 * SECOND
    canaries = CanaryController(
        world.current, world.reconciler, load_seconds=60, watch=WatchTerms(0.0, 0)
    )
    await canaries.renew("v2", 30)
    world.now_us = 88 * SECOND
    await world.rounds()
    assert world.current.rollout.candidate is not None
    world.now_us = 89 * SECOND
    with pytest.raises(FailedPreconditionError):
        await canaries.renew("v2", 30)


async def test_another_candidate_may_start_after_an_expired_lease() -> None:
    world = World()
    world.now_us = 61 * SECOND
    fresh = Candidate("v3", "/models/v3", 0.1, 100 * SECOND)
    rollout = await world.current.change(lambda rollout: rollout.propose(fresh))
    assert rollout.candidate == fresh
    assert rollout.history[0].kind is ChangeKind.LEASE_EXPIRED


async def test_a_retired_version_is_unloaded_only_after_its_last_answer() -> None:
    world = World()
    await world.rounds()
    with world.running.track("v1"):
        await world.current.change(lambda rollout: rollout.promote("v2", "wins", 1))
        await world.rounds()
        assert "v1" in world.repository.versions
    await world.rounds()
    assert world.repository.versions == {"v2": True}


async def test_a_load_is_retried_after_the_model_server_was_busy() -> None:
    world = World()
    world.repository.busy = True
    await world.rounds()
    assert world.reconciler.status("v1").state is State.LOADING
    world.repository.busy = False
    await world.rounds()
    assert world.reconciler.status("v1").state is State.READY


async def test_a_version_in_use_by_another_replica_is_not_unloaded() -> None:
    world = World()
    await world.rounds()
    await world.current.change(lambda rollout: rollout.promote("v2", "wins", 1))
    world.repository.in_use = {"v1"}
    await world.rounds()
    assert (world.repository.versions, world.current.rollout.retired) == (
        {"v1": True, "v2": True},
        ("v1",),
    )
    world.repository.in_use = set()
    await world.rounds()
    assert (world.repository.versions, world.current.rollout.retired) == ({"v2": True}, ())


async def test_a_retired_version_stays_loaded_during_the_grace_period() -> None:
    world = World(grace_seconds=60)
    await world.rounds()
    await world.current.change(lambda rollout: rollout.promote("v2", "wins", 1))
    await world.rounds()
    assert "v1" in world.repository.versions
    world.repository.versions.clear()
    await world.rounds()
    assert world.current.rollout.retired == ("v1",), "another replica may be loading the version"


async def test_a_version_that_is_a_candidate_again_is_not_unloaded_by_a_late_round() -> None:
    world = World()
    await world.rounds()
    await world.current.change(lambda rollout: rollout.roll_back("v2", "worse", 1))
    # This round decides to unload, and acts after the next lines.
    late = asyncio.create_task(world.reconciler.round())
    await asyncio.sleep(0)
    again = Candidate("v2", "/models/v2", 0.5, 60 * SECOND)
    world.store.stored = StoredRollout(
        world.store.stored.rollout.propose(again), world.store.stored.serial + 1
    )
    await late
    await world.rounds()
    assert world.repository.unloads == []


async def test_without_the_store_versions_are_loaded_but_not_unloaded() -> None:
    world = World()
    await world.rounds()
    await world.current.change(lambda rollout: rollout.promote("v2", "wins", 1))
    world.store.away = True
    del world.repository.versions["v2"]
    await world.rounds()
    assert world.repository.versions == {"v1": True, "v2": True}
    world.store.away = False
    await world.rounds()
    assert world.repository.versions == {"v2": True}


async def test_a_version_loaded_by_an_outdated_rollout_is_unloaded_later() -> None:
    world = World()
    await world.rounds()
    world.repository.versions.clear()  # the model server was restarted
    world.store.away = True
    await world.rounds()
    assert world.repository.versions == {"v1": True, "v2": True}
    newer = Rollout(stable=Deployment("v2", "/models/v2"))
    world.store.stored, world.store.away = StoredRollout(newer, 9), False
    await world.rounds()
    assert world.repository.versions == {"v2": True}
    assert world.current.rollout == newer


async def test_a_lease_expires_once_for_two_replicas() -> None:
    world = World()
    other = Replica(world, 0.0)
    world.now_us = 60 * SECOND
    await asyncio.gather(world.rounds(), other.rounds())
    assert [change.kind for change in world.store.stored.rollout.history] == [
        ChangeKind.LEASE_EXPIRED
    ]
    assert world.current.rollout == other.current.rollout == world.store.stored.rollout


async def test_a_version_that_is_already_ready_is_not_loaded_again() -> None:
    world = World()
    world.repository.versions = {"v1": True, "v2": True}
    await world.rounds()
    await world.reconciler.wait_ready("v2")
    assert world.repository.loads == []
