"""Bounded threads for work on long texts, which ends with the call that asked for the work.

`asyncio.to_thread` has neither property: its pool has a thread per core and more, and a thread runs
on after the deadline of its call.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

ResultT = TypeVar("ResultT")

# Function that work calls between its steps. Raises AbandonedError after the end of the call.
Checkpoint = Callable[[], None]


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
