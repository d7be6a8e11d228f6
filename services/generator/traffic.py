"""The present rollout. Every change is on disk before it takes effect, one at a time."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from services.generator.rollout import Rollout


class Keeper(Protocol):
    """Where the rollout survives a restart. Blocking."""

    def save(self, rollout: Rollout) -> None: ...


class Traffic:
    """Holds the rollout."""

    def __init__(self, rollout: Rollout, keeper: Keeper, now_us: Callable[[], int]) -> None:
        self._rollout = rollout
        self._keeper = keeper
        self._changing = asyncio.Lock()
        self.now_us = now_us

    @property
    def rollout(self) -> Rollout:
        """As it is now; a candidate whose lease has ended may still be in it, without users."""
        return self._rollout

    async def change(self, transition: Callable[[Rollout], Rollout]) -> Rollout:
        """Apply a transition to the present rollout, after taking out a candidate whose lease has ended.

        Raises whatever the transition raises; then nothing but the expiry has changed.
        """
        # Shielded: a caller that goes away must not leave the file and us with two opinions.
        return await asyncio.shield(self._change(transition))

    async def _change(self, transition: Callable[[Rollout], Rollout]) -> Rollout:
        async with self._changing:
            await self._replace(self._rollout.expire(self.now_us()))
            await self._replace(transition(self._rollout))
            return self._rollout

    async def _replace(self, rollout: Rollout) -> None:
        if rollout != self._rollout:
            await asyncio.to_thread(self._keeper.save, rollout)
            self._rollout = rollout
