"""Threads whose work does not outlive its caller, unlike the work of `asyncio.to_thread`.

Work on long texts is abandoned when its call ends, and has a limited number of threads. Work on a
database is waited for, because its connection must return before the database is closed.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from services.chassis.errors import ResourceExhaustedError

ArgumentsT = ParamSpec("ArgumentsT")
ResultT = TypeVar("ResultT")

# Function that work calls between its steps. Raises AbandonedError after the end of the call.
Checkpoint = Callable[[], None]

RETRY_SECONDS = 1.0


class AbandonedError(Exception):
    """The call of this work has ended: its deadline passed, or its client left."""


def no_checkpoint() -> None:
    """Continue in any case; the checkpoint of work in the event loop."""


class BoundedThreads:
    """Executor of at most `threads` pieces of work at a time; further work waits."""

    def __init__(self, threads: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[[Checkpoint], ResultT]) -> ResultT:
        """Return the result of `work`.

        A cancelled call removes waiting work from the queue, and ends running work at its next
        checkpoint.
        """
        ended = threading.Event()

        def checkpoint() -> None:
            if ended.is_set():
                raise AbandonedError

        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, contextvars.copy_context().run, work, checkpoint
            )
        finally:
            ended.set()


class OwnerLimitError(ResourceExhaustedError):
    """One owner has too many waiting pieces of work."""

    is_load = False


@dataclass
class _Owner:
    """Calls of one owner: the running one holds the lock, the others wait for it."""

    running: asyncio.Lock = field(default_factory=asyncio.Lock)
    calls: int = 0


class OwnedThreads(BoundedThreads):
    """Threads in which one owner has at most one piece of work at a time."""

    def __init__(self, threads: int, name: str, max_waiting: int) -> None:
        super().__init__(threads, name)
        self._max_waiting = max_waiting
        self._owners: dict[str, _Owner] = {}

    async def run_for(self, key: str, work: Callable[[Checkpoint], ResultT]) -> ResultT:
        """Return the result of `work`, after all earlier work of the owner `key`.

        Raises:
            OwnerLimitError: `max_waiting` calls of this owner wait.
        """
        owner = self._owners.setdefault(key, _Owner())
        if owner.calls > self._max_waiting:
            raise OwnerLimitError(
                "too many texts of this user wait for the guard",
                reason="TOO_MANY_TEXTS",
                limit=f"1 running and {self._max_waiting} waiting",
                retry_seconds=RETRY_SECONDS,
            )
        owner.calls += 1
        try:
            async with owner.running:
                return await self.run(work)
        finally:
            owner.calls -= 1
            if not owner.calls:
                del self._owners[key]


async def run_to_end(
    work: Callable[ArgumentsT, ResultT], *arguments: ArgumentsT.args, **options: ArgumentsT.kwargs
) -> ResultT:
    """Return the result of `work` in a thread; a cancelled caller first waits for its end."""
    running = asyncio.create_task(asyncio.to_thread(work, *arguments, **options))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.gather(running, return_exceptions=True)
        raise
