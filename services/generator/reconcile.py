"""Keeps the model server holding the versions that the rollout wants, whatever either of them went
through meanwhile.

A loop and not a reaction: after a restart of the model server the next round finds it empty and
loads again. Every replica runs one, and they need no leader: loads of the same version are joined
by the model server, and it lets nothing go that is in use.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
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
from services.generator.metrics import SHARE, VERSIONS_READY
from services.generator.rollout import Rollout
from services.generator.running import Running
from services.generator.traffic import Traffic

log = logging.getLogger(__name__)

AWAY = "the model server is away"


class State(StrEnum):
    """Of a version in the model server."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """State, and why it failed or what it waits for."""

    state: State
    reason: str = ""


class ModelRepository(Protocol):
    """KServe V2's repository extension, or something like it.

    Raises ServiceError if the server is away or busy; FailedPreconditionError if a version cannot
    be loaded, and from `index` if nothing can. `unload` cuts no answer off, whoever asked for it:
    it does nothing and raises FailedPreconditionError while one runs on the version, or the version
    goes only after them.
    """

    async def index(self) -> Mapping[str, bool]: ...
    async def load(self, version: str, directory: str) -> None: ...
    async def unload(self, version: str) -> None: ...


@dataclass(frozen=True)
class Pace:
    """Time between rounds, before a version that failed is loaded again, and before a retired one
    is unloaded.

    By the end of the grace every replica has seen that the version is retired and gives it to
    nobody.
    """

    round_seconds: float
    retry_seconds: float
    grace_seconds: float


@dataclass
class _Failure:
    reason: str
    retry_at: float


class Reconciler:
    """Compares and acts, round by round."""

    def __init__(
        self, traffic: Traffic, repository: ModelRepository, running: Running, pace: Pace
    ) -> None:
        self._traffic = traffic
        self._repository = repository
        self._running = running
        self._pace = pace
        self._index: Mapping[str, bool] | None = None
        self._away = AWAY
        self._failures: dict[str, _Failure] = {}
        self._acting: dict[str, asyncio.Task[None]] = {}
        self._retired_at: dict[str, float] = {}
        self._asked_for: set[str] = set()
        self._due = asyncio.Event()
        self._changed = asyncio.Event()

    def status(self, version: str) -> Status:
        """What is known of a version."""
        if self._index is None:
            return Status(State.LOADING, self._away)
        if self._index.get(version):
            return Status(State.READY)
        failure = self._failures.get(version)
        return (
            Status(State.FAILED, failure.reason)
            if failure
            else Status(State.LOADING, "being loaded")
        )

    def is_served(self, version: str) -> bool:
        """Whether the model server answers for it, wanted by the rollout or not."""
        return self.status(version).state is State.READY

    def hurry(self) -> None:
        """Begin the next round now."""
        self._due.set()

    async def wait_ready(self, version: str) -> None:
        """Return when the version answers.

        Raises:
            FailedPreconditionError: it could not be loaded, the text says why; or the rollout does
                not want it any more.
        """
        self._failures.pop(version, None)
        self.hurry()
        while (status := self.status(version)).state is not State.READY:
            if version not in _wanted(self._traffic.rollout):
                raise FailedPreconditionError(
                    "the version was taken out while it loaded", field="version"
                )
            if status.state is State.FAILED:
                raise FailedPreconditionError(
                    f"the version could not be loaded: {status.reason}",
                    reason="VERSION_FAILED",
                    field="directory",
                )
            await self._changed.wait()

    async def run(self) -> None:
        """Rounds until cancelled; one at once whenever the rollout changes."""
        self._traffic.on_change(self.hurry)
        try:
            while True:
                self._due.clear()
                await self.round()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.round_seconds):
                        await self._due.wait()
        finally:
            for task in self._acting.values():
                task.cancel()
            await asyncio.gather(*self._acting.values(), return_exceptions=True)

    async def round(self) -> None:
        """Look, load what is missing, unload what is not wanted."""
        self._index = await self._look()
        rollout = self._traffic.rollout
        if self._index is not None:
            self._load_missing(rollout, self._index)
            # What is known of a store that is away may be out of date: too much is better than too
            # little.
            if self._traffic.stale_since_us is None:
                await self._clear_away(rollout, self._index)
        self._report(rollout)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _look(self) -> Mapping[str, bool] | None:
        try:
            return await self._repository.index()
        except ServiceError as error:
            away = error.text if isinstance(error, FailedPreconditionError) else AWAY
            if self._index is not None or away != self._away:
                log.warning("model server is away", extra=fields(reason=error.reason))
            self._away = away
            return None

    def _load_missing(self, rollout: Rollout, index: Mapping[str, bool]) -> None:
        for version, directory in _wanted(rollout).items():
            if index.get(version):
                self._failures.pop(version, None)
            elif self._may_load(version):
                self._start(version, self._load(version, directory))

    async def _clear_away(self, rollout: Rollout, index: Mapping[str, bool]) -> None:
        now = time.monotonic()
        self._retired_at = {
            version: self._retired_at.get(version, now) for version in rollout.retired
        }
        known = frozenset(
            v for v, since in self._retired_at.items() if now >= since + self._pace.grace_seconds
        )
        for version in known & index.keys():
            if not self._running.count(version):
                self._start(version, self._unload(version))
        with suppress(UnavailableError):
            if gone := known - index.keys():
                await self._traffic.change(lambda rollout: rollout.forget_retired(gone))
            if left := self._left_behind(rollout, index):
                await self._traffic.change(lambda rollout: rollout.retire(left))

    def _left_behind(self, rollout: Rollout, index: Mapping[str, bool]) -> frozenset[str]:
        """What we loaded after everybody else had forgotten it: the rollout that we went by was
        old.
        """
        idle = self._asked_for - self._acting.keys() - _wanted(rollout).keys()
        self._asked_for -= idle - index.keys()
        return frozenset((idle & index.keys()) - set(rollout.retired))

    def _may_load(self, version: str) -> bool:
        failure = self._failures.get(version)
        return version not in self._acting and (
            failure is None or time.monotonic() >= failure.retry_at
        )

    def _start(self, version: str, action: Coroutine[Any, Any, None]) -> None:
        if version in self._acting:
            action.close()
            return
        task = asyncio.create_task(action)
        self._acting[version] = task
        task.add_done_callback(lambda _: self._acting.pop(version, None))

    async def _load(self, version: str, directory: str) -> None:
        log.info("loading a version", extra=fields(version=version))
        self._asked_for.add(version)
        try:
            await self._repository.load(version, directory)
        except FailedPreconditionError as error:
            self._failures[version] = _Failure(
                error.text, time.monotonic() + self._pace.retry_seconds
            )
            log.warning("version failed", extra=fields(version=version))
        except ServiceError as error:
            log.warning("loading was put off", extra=fields(version=version, reason=error.reason))
            return
        self.hurry()

    async def _unload(self, version: str) -> None:
        await self._traffic.refresh()
        if version not in self._traffic.rollout.retired:
            return  # somebody put it on trial again just now
        try:
            await self._repository.unload(version)
            log.info("version unloaded", extra=fields(version=version))
        except (NotFoundError, FailedPreconditionError):
            # another replica was faster, or has answers on it: then the next rounds ask again
            return
        except ServiceError as error:
            log.warning("unloading was put off", extra=fields(version=version, reason=error.reason))

    def _report(self, rollout: Rollout) -> None:
        for version in _wanted(rollout):
            VERSIONS_READY.labels(version).set(self.is_served(version))
        for version, share in shares(rollout).items():
            SHARE.labels(version).set(share)


def shares(rollout: Rollout) -> dict[str, float]:
    """Share of the users by version, retired ones with 0."""
    found = dict.fromkeys(rollout.retired, 0.0)
    taken = 0.0
    if rollout.candidate is not None:
        taken = rollout.candidate.share if rollout.candidate.live else 0.0
        found[rollout.candidate.version] = taken
    if rollout.stable is not None:
        found[rollout.stable.version] = 1.0 - taken
    return found


def _wanted(rollout: Rollout) -> dict[str, str]:
    """Version → directory."""
    return {
        place.version: place.directory
        for place in (rollout.stable, rollout.candidate)
        if place is not None
    }
