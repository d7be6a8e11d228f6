"""The current rollout of this replica, and changes with optimistic locking.

Other replicas may change the rollout too, so a change starts from the stored state. While the store
is unavailable the last known rollout is used, its leases still end, and changes fail with
UNAVAILABLE.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

from services.chassis.audit.acts import Act
from services.chassis.errors import DetailedError, ServiceError, UnavailableError
from services.chassis.retries import retry_delay
from services.chassis.telemetry import fields
from services.generator.metrics import (
    ROLLOUT_HALTED,
    ROLLOUT_READ_TIME,
    ROLLOUT_REGRESSED,
    ROLLOUT_SERIAL,
    ROLLOUT_WATCHED,
)
from services.generator.rollout.rollout import ChangeKind, Rollout

log = logging.getLogger(__name__)

STORE_UNAVAILABLE = "ROLLOUT_STORE_UNAVAILABLE"
# Each collision is a success of another replica, so this many in a row indicate a defect.
MAX_ATTEMPTS = 20
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.02, 0.2
READ_SECONDS = 1.0


@dataclass(frozen=True)
class StoredRollout:
    """A rollout with its serial number, which counts the stored changes."""

    rollout: Rollout
    serial: int


NOTHING_STORED = StoredRollout(Rollout(), 0)


class UnusableStoreError(DetailedError):
    """The store must not be used in its present state; the text names place and remedy."""

    reason = "UNUSABLE_STORE"


class RolloutStore(Protocol):
    """Store of the rollout, shared by replicas.

    `replace` stores the rollout that follows `serial` together with the record of the act, and
    returns False if another replica stored a change first. `append` adds a record to the audit log,
    and `audit_records` returns the records since a time, oldest first. Methods raise
    UnavailableError with reason ROLLOUT_STORE_UNAVAILABLE.
    """

    async def load(self) -> StoredRollout: ...
    async def replace(self, rollout: Rollout, serial: int, act: Act | None = None) -> bool: ...
    async def append(self, act: Act) -> None: ...
    async def audit_records(self, since_us: int) -> Sequence[Mapping[str, Any]]: ...


class CurrentRollout:
    """Holds the last known rollout and changes the stored rollout."""

    def __init__(
        self, store: RolloutStore, stored: StoredRollout, now_us: Callable[[], int]
    ) -> None:
        self._store = store
        self._changing = asyncio.Lock()
        self._store_unavailable = False
        self._on_change: Callable[[], None] = lambda: None
        self.now_us = now_us
        self._set(stored)

    @property
    def rollout(self) -> Rollout:
        """Return the rollout without a candidate whose lease has ended.

        The end of the lease may not be stored yet.
        """
        return self._stored.rollout.expire(self.now_us())

    def directory_of(self, version: str) -> str | None:
        """Return the model directory of a version of the rollout; None for others."""
        found = (item for item in self._stored.rollout.deployments if item.version == version)
        return next((item.directory for item in found), None)

    def watch_start_us(self) -> int | None:
        """Return the start of the present watch, None without a watch."""
        watch = self._stored.rollout.watch
        return watch.start_us if watch else None

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each change of the rollout by any replica."""
        self._on_change = callback

    @property
    def stale_since_us(self) -> int | None:
        """Return the time of the last read while the store is unavailable, otherwise None."""
        return self._read_us if self._store_unavailable else None

    async def change(
        self, transition: Callable[[Rollout], Rollout], act: Act | None = None
    ) -> Rollout:
        """Apply a transition to the stored rollout, and retry if another replica was faster.

        An administrative act is recorded with the change, or with the reason of its refusal. A
        repeated act without a change is not recorded.

        The result is stored when the method returns. After an error the change was not stored,
        except if the store committed and its response was lost. Transitions must therefore be
        idempotent.

        Raises:
            UnavailableError: the store does not answer, or too many other changes collide.
            ServiceError: an error of the transition.
        """
        # Shielded, so that a disconnecting caller cannot leave store and replica with different
        # rollouts.
        return await asyncio.shield(self._change(transition, act))

    async def record_refusal(self, act: Act, refusal: ServiceError) -> None:
        """Record a refused act; without the store, log a warning, as callers need the refusal."""
        try:
            await self._store.append(replace(act, outcome=f"refused: {refusal.reason}"))
        except UnavailableError as error:
            log.warning("a refused act is not recorded", extra=fields(reason=error.reason))

    async def read_latest(self) -> Rollout:
        """Return the stored rollout, or the last known one if the store does not answer in time."""
        if not self._store_unavailable:
            with suppress(TimeoutError):
                async with asyncio.timeout(READ_SECONDS):
                    await self.refresh()
        return self.rollout

    async def refresh(self) -> None:
        """Read changes of other replicas, and store the end of a lease.

        If the store is unavailable, do nothing.
        """
        try:
            await self.change(lambda rollout: rollout)
        except UnavailableError:
            return

    async def poll(self, poll_seconds: float) -> None:
        """Refresh periodically until cancelled."""
        try:
            while True:
                await self.refresh()
                await asyncio.sleep(poll_seconds)
        finally:
            async with self._changing:  # wait for a running change before the store closes
                pass

    async def _change(self, transition: Callable[[Rollout], Rollout], act: Act | None) -> Rollout:
        async with self._changing:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                stored = await self._load()
                before = stored.rollout.expire(self.now_us())
                try:
                    rollout = transition(before)
                except ServiceError as error:
                    if act is not None:
                        await self.record_refusal(act, error)
                    raise
                # Nothing to store, for example for a repeated promotion.
                if rollout == stored.rollout:
                    return rollout
                # The end of a lease is stored here as well, but is no administrative act.
                done = act if rollout != before else None
                if await self._store.replace(rollout, stored.serial, done):
                    self._set(StoredRollout(rollout, stored.serial + 1))
                    self._on_change()
                    return rollout
                # Two replicas in lockstep could starve each other.
                await asyncio.sleep(
                    retry_delay(attempt, FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS)
                )
        raise UnavailableError(
            "the rollout is changed by other replicas all the time", reason="ROLLOUT_BUSY"
        )

    async def _load(self) -> StoredRollout:
        try:
            stored = await self._store.load()
            if stored == NOTHING_STORED and self._stored != NOTHING_STORED:
                # An empty database instead of the known rollout, for example before a restore, must
                # not stop answers.
                raise UnavailableError("the stored rollout is missing", reason=STORE_UNAVAILABLE)
        except UnavailableError as error:
            if not self._store_unavailable:
                log.warning("rollout store unavailable", extra=fields(reason=error.reason))
            self._store_unavailable = True
            raise
        is_new = stored.serial != self._stored.serial
        self._set(stored)
        if is_new:
            self._on_change()
        return stored

    def _set(self, stored: StoredRollout) -> None:
        self._stored = stored
        self._store_unavailable = False
        self._read_us = self.now_us()
        # Renewals come so often that replicas which are scraped at different times would differ.
        watch = stored.rollout.watch
        ROLLOUT_SERIAL.set(stored.serial - (watch.renewals if watch else 0))
        ROLLOUT_HALTED.set(stored.rollout.halt is not None)
        ROLLOUT_WATCHED.set(stored.rollout.watch is not None)
        last = stored.rollout.history[0].kind if stored.rollout.history else None
        ROLLOUT_REGRESSED.set(last is ChangeKind.WATCH_ROLLED_BACK)
        ROLLOUT_READ_TIME.set(self._read_us / 1e6)
