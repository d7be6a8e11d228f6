"""Reconcile loop: the model server holds the versions of the rollout.

A periodic loop instead of a reaction to changes. After a restart of the model server, the next
round finds an empty index and loads all versions again. Every replica runs a loop without a leader.
The model server joins concurrent loads of one version and refuses to unload a version in use.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from services.chassis.errors import (
    FailedPreconditionError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.chassis.telemetry import fields
from services.generator.metrics import RUNNING, SHARE, VERSIONS_READY
from services.generator.rollout.current_rollout import CurrentRollout
from services.generator.rollout.rollout import Rollout

log = logging.getLogger(__name__)

SERVER_UNAVAILABLE = "the model server is unavailable"


class State(StrEnum):
    """State of a version in the model server."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """State of a version, with the reason of a failure or of the wait."""

    state: State
    reason: str = ""


class ModelRepository(Protocol):
    """Server that loads and unloads versions, like KServe V2's repository extension.

    All methods raise ServiceError if the server is unavailable or busy. `load` raises
    FailedPreconditionError if the version cannot be loaded, and `index` raises the same error if no
    version can be loaded at all. `unload` never interrupts an answer of any client. While an answer
    runs, `unload` either raises FailedPreconditionError without a change, or takes effect after the
    answer. `load_missing` loads a version that is served already into replicas of the server that
    lack it; other servers do nothing. `bases` returns the versions that must stay loaded because
    wanted ones, given with their directories, are adapters of them.
    """

    async def index(self) -> Mapping[str, bool]: ...
    async def load(self, version: str, directory: str) -> None: ...
    async def load_missing(self, version: str, directory: str) -> None: ...
    async def unload(self, version: str) -> None: ...
    async def bases(self, wanted: Mapping[str, str]) -> frozenset[str]: ...


@dataclass(frozen=True)
class ReconcileIntervals:
    """Intervals of the reconcile loop.

    Args:
        round_seconds: between two rounds.
        retry_seconds: before a failed version is loaded again.
        grace_seconds: before a retired version is unloaded. By then every replica has read that the
            version is retired, and assigns no user to the version.
    """

    round_seconds: float
    retry_seconds: float
    grace_seconds: float


@dataclass
class _Failure:
    reason: str
    retry_at: float


class RunningGenerations:
    """Number of running generations for each version; a version is unloaded only without any."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def track(self, version: str) -> Iterator[None]:
        """Count one generation of the version while the block runs."""
        self._add(version, 1)
        try:
            yield
        finally:
            self._add(version, -1)

    def count(self, version: str) -> int:
        """Return the number of running generations of a version."""
        return self._counts[version]

    def _add(self, version: str, step: int) -> None:
        self._counts[version] += step
        RUNNING.labels(version).set(self._counts[version])


class Reconciler:
    """Compares the rollout with the index of the model server, and loads and unloads versions."""

    def __init__(
        self,
        current: CurrentRollout,
        repository: ModelRepository,
        running: RunningGenerations,
        intervals: ReconcileIntervals,
    ) -> None:
        self._current = current
        self._repository = repository
        self._running = running
        self._intervals = intervals
        self._index: dict[str, bool] | None = None
        self._unavailable_reason = SERVER_UNAVAILABLE
        self._failures: dict[str, _Failure] = {}
        self._actions: dict[str, asyncio.Task[None]] = {}
        self._retired_at: dict[str, float] = {}
        self._requested: set[str] = set()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()

    def status(self, version: str) -> Status:
        """Return the last known status of a version."""
        if self._index is None:
            return Status(State.LOADING, self._unavailable_reason)
        if self._index.get(version):
            return Status(State.READY)
        failure = self._failures.get(version)
        return (
            Status(State.FAILED, failure.reason)
            if failure
            else Status(State.LOADING, "being loaded")
        )

    def is_served(self, version: str) -> bool:
        """Return True if the version is ready, even if not part of the rollout."""
        return self.status(version).state is State.READY

    def report_lost(self, version: str) -> None:
        """Mark a version as not served, and start the next round without waiting."""
        if self._index is not None:
            self._index.pop(version, None)
        self.reconcile_soon()

    def reconcile_soon(self) -> None:
        """Start the next round without waiting for the interval."""
        self._wake.set()

    async def wait_ready(self, version: str) -> None:
        """Return when the version is ready.

        Raises:
            FailedPreconditionError: the version cannot be loaded, for the reason in the text; or
                the version is no longer part of the rollout.
        """
        self._failures.pop(version, None)
        self.reconcile_soon()
        while (status := self.status(version)).state is not State.READY:
            if version not in _wanted(self._current.rollout):
                raise FailedPreconditionError(
                    "the version was removed from the rollout while it loaded", field="version"
                )
            if status.state is State.FAILED:
                raise FailedPreconditionError(
                    f"the version could not be loaded: {status.reason}",
                    reason="VERSION_FAILED",
                    field="directory",
                )
            await self._changed.wait()

    async def run(self) -> None:
        """Run rounds until cancelled, and one immediately after each change of the rollout."""
        self._current.on_change(self.reconcile_soon)
        try:
            while True:
                self._wake.clear()
                await self.round()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._intervals.round_seconds):
                        await self._wake.wait()
        finally:
            for task in self._actions.values():
                task.cancel()
            await asyncio.gather(*self._actions.values(), return_exceptions=True)

    async def round(self) -> None:
        """Read the index, load missing versions, and unload retired versions."""
        try:
            self._index = dict(await self._repository.index())
        except ServiceError as error:
            reason = (
                error.text if isinstance(error, FailedPreconditionError) else SERVER_UNAVAILABLE
            )
            if self._index is not None or reason != self._unavailable_reason:
                log.warning("model server unavailable", extra=fields(reason=error.reason))
            self._unavailable_reason, self._index = reason, None
        rollout = self._current.rollout
        if self._index is not None:
            for version, directory in _wanted(rollout).items():
                if self._index.get(version):
                    self._failures.pop(version, None)
                    self._start(version, self._repository.load_missing(version, directory))
                    continue
                failure = self._failures.get(version)
                if failure is None or time.monotonic() >= failure.retry_at:
                    self._start(version, self._load(version, directory))
            # While the store is unavailable the known rollout may be outdated. An extra version in
            # memory is better than a missing one.
            if self._current.stale_since_us is None:
                await self._unload_retired(rollout, self._index)
        for version in _wanted(rollout):
            VERSIONS_READY.labels(version).set(self.is_served(version))
        for version, share in shares(rollout).items():
            SHARE.labels(version).set(share)
        # Wakes all waiters of this round; later waiters wait for the next one.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _unload_retired(self, rollout: Rollout, index: Mapping[str, bool]) -> None:
        now = time.monotonic()
        # Counted from the round that first sees the version retired, on the monotonic clock.
        self._retired_at = {
            version: self._retired_at.get(version, now) for version in rollout.retired
        }
        known = frozenset(
            v
            for v, since in self._retired_at.items()
            if now >= since + self._intervals.grace_seconds
        )
        bases = await self._repository.bases(_wanted(rollout))
        # A base outside the rollout is retired too, so that it is unloaded after its adapters.
        self._requested |= bases
        for version in (known & index.keys()) - bases:
            if not self._running.count(version):
                self._start(version, self._unload(version))
        with suppress(UnavailableError):
            if unloaded := known - index.keys():
                await self._current.change(lambda rollout: rollout.forget_retired(unloaded))
            # Versions that this replica loaded by an outdated rollout: the other replicas have
            # already removed them from `retired`.
            idle = self._requested - self._actions.keys() - _wanted(rollout).keys()
            self._requested -= idle - index.keys()
            if forgotten := frozenset((idle & index.keys()) - set(rollout.retired)):
                await self._current.change(lambda rollout: rollout.retire(forgotten))

    def _start(self, version: str, action: Coroutine[Any, Any, None]) -> None:
        # One action for each version at a time; the coroutine is closed to avoid a warning.
        if version in self._actions:
            action.close()
            return
        task = asyncio.create_task(action)
        self._actions[version] = task
        task.add_done_callback(lambda _: self._actions.pop(version, None))

    async def _load(self, version: str, directory: str) -> None:
        log.info("loading version", extra=fields(version=version))
        self._requested.add(version)
        try:
            await self._repository.load(version, directory)
        except FailedPreconditionError as error:
            self._failures[version] = _Failure(
                error.text, time.monotonic() + self._intervals.retry_seconds
            )
            log.warning("version failed", extra=fields(version=version))
        except ServiceError as error:
            log.warning("loading postponed", extra=fields(version=version, reason=error.reason))
            return
        self.reconcile_soon()

    async def _unload(self, version: str) -> None:
        # Read again, since another replica may have proposed the version since this round began.
        await self._current.refresh()
        if version not in self._current.rollout.retired:
            return  # an operator has just made the version a candidate again
        if version in await self._repository.bases(_wanted(self._current.rollout)):
            return  # the base of a new candidate
        try:
            await self._repository.unload(version)
            log.info("version unloaded", extra=fields(version=version))
        except (NotFoundError, FailedPreconditionError):
            # Another replica unloaded the version, or has answers on it. A later round tries again.
            return
        except ServiceError as error:
            log.warning("unloading postponed", extra=fields(version=version, reason=error.reason))


def shares(rollout: Rollout) -> dict[str, float]:
    """Return the share of the users by version; retired versions have 0."""
    found = dict.fromkeys(rollout.retired, 0.0)
    taken = 0.0
    if rollout.candidate is not None:
        taken = rollout.candidate.share if rollout.candidate.live else 0.0
        found[rollout.candidate.version] = taken
    if rollout.watch is not None:
        found[rollout.watch.previous.version] = taken = rollout.watch.share
    if rollout.stable is not None:
        found[rollout.stable.version] = 1.0 - taken
    return found


def _wanted(rollout: Rollout) -> dict[str, str]:
    """Return the directory of each version that must be loaded."""
    return {deployment.version: deployment.directory for deployment in rollout.deployments}
