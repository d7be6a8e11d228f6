"""Threads whose work does not outlive its caller, unlike the work of `asyncio.to_thread`.

Work on long texts is abandoned when its call ends, and has a limited number of threads. Work on a
database is waited for, because its connection must return before the database is closed.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

ArgumentsT = ParamSpec("ArgumentsT")
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
