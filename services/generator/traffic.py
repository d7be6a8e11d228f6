"""The present rollout, as this replica knows it. Others may change it too: a change begins with
what is stored now.

While the store is away the last known rollout goes on answering, its leases still end, and changes
fail with UNAVAILABLE.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import DetailedError, UnavailableError
from services.chassis.telemetry import fields
from services.generator.metrics import ROLLOUT_READ_TIME, ROLLOUT_SERIAL
from services.generator.rollout import Rollout

log = logging.getLogger(__name__)

STORE_AWAY = "ROLLOUT_STORE_UNAVAILABLE"
# Each collision is somebody else's success, so this many in a row means that something is wrong.
ATTEMPTS = 20
LONGEST_PAUSE_SECONDS = 0.2
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Stored:
    """A rollout, and how many were stored up to it."""

    rollout: Rollout
    serial: int


NOTHING_STORED = Stored(Rollout(), 0)


class UnusableStoreError(DetailedError):
    """The store must not be used as it is; the text says where it is and what helps."""

    reason = "UNUSABLE_STORE"


class RolloutStore(Protocol):
    """Where the rollout survives, and where replicas meet. Raises UnavailableError, reason
    ROLLOUT_STORE_UNAVAILABLE.

    `replace` stores a rollout as the one after `serial`; False if another one was stored there
    first.
    """

    async def load(self) -> Stored: ...
    async def replace(self, rollout: Rollout, serial: int) -> bool: ...


class Traffic:
    """Holds the rollout."""

    def __init__(self, store: RolloutStore, stored: Stored, now_us: Callable[[], int]) -> None:
        self._store = store
        self._changing = asyncio.Lock()
        self._is_away = False
        self._tell: Callable[[], None] = lambda: None
        self.now_us = now_us
        self._adopt(stored)

    @property
    def rollout(self) -> Rollout:
        """As it is now: without a candidate whose lease has ended, stored so or not."""
        return self._stored.rollout.expire(self.now_us())

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call `tell` whenever another rollout holds from now on, whoever changed it."""
        self._tell = tell

    @property
    def stale_since_us(self) -> int | None:
        """When the rollout was last read, if the store is away; None if what is known is what is
        stored.
        """
        return self._read_us if self._is_away else None

    async def change(self, transition: Callable[[Rollout], Rollout]) -> Rollout:
        """Apply a transition to the stored rollout; again if another replica was faster. Stored
        when it returns.

        Raises whatever the transition raises, and UnavailableError; then it was not stored, but for
        one case: the store did it and its answer got lost. So transitions may be asked for twice.
        """
        # Shielded: a caller that goes away must not leave the store and us with two opinions.
        return await asyncio.shield(self._change(transition))

    async def look(self) -> Rollout:
        """As stored, whoever changed it; as known if the store does not answer soon."""
        if not self._is_away:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self.refresh()
        return self.rollout

    async def refresh(self) -> None:
        """Learn what others changed, and store the end of a lease. Without the store nothing
        happens.
        """
        try:
            await self.change(lambda rollout: rollout)
        except UnavailableError:
            return

    async def follow(self, poll_seconds: float) -> None:
        """Refresh until cancelled."""
        try:
            while True:
                await self.refresh()
                await asyncio.sleep(poll_seconds)
        finally:
            async with self._changing:  # a change under way ends before the store is closed
                pass

    async def _change(self, transition: Callable[[Rollout], Rollout]) -> Rollout:
        async with self._changing:
            for attempt in range(ATTEMPTS):
                stored = await self._load()
                rollout = transition(stored.rollout.expire(self.now_us()))
                if rollout == stored.rollout:
                    return rollout
                if await self._store.replace(rollout, stored.serial):
                    self._adopt(Stored(rollout, stored.serial + 1))
                    self._tell()
                    return rollout
                # Two who go on at once, at the same pace, could let one lose for ever.
                await asyncio.sleep(random.uniform(0, LONGEST_PAUSE_SECONDS * attempt / ATTEMPTS))
        raise UnavailableError("others keep changing the rollout", reason="ROLLOUT_BUSY")

    async def _load(self) -> Stored:
        try:
            stored = await self._store.load()
            if stored == NOTHING_STORED and self._stored != NOTHING_STORED:
                # An empty database in the place of ours, say before a restore: nobody should lose
                # their answers by it.
                raise UnavailableError("the stored rollout is gone", reason=STORE_AWAY)
        except UnavailableError as error:
            if not self._is_away:
                log.warning("rollout store is away", extra=fields(reason=error.reason))
            self._is_away = True
            raise
        is_new = stored.serial != self._stored.serial
        self._adopt(stored)
        if is_new:
            self._tell()
        return stored

    def _adopt(self, stored: Stored) -> None:
        self._stored = stored
        self._is_away = False
        self._read_us = self.now_us()
        ROLLOUT_SERIAL.set(stored.serial)
        ROLLOUT_READ_TIME.set(self._read_us / 1e6)
