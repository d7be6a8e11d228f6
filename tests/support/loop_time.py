"""CPU time of the callbacks of an event loop."""

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

# Longest time of one callback for the largest valid requests, in seconds of CPU time. Calls of
# other users wait so long.
MAX_CALLBACK_SECONDS = 0.15


@dataclass
class LongestCallback:
    """The longest callback so far, in seconds of CPU time of its thread."""

    cpu_seconds: float = 0.0


@contextmanager
def measure_callbacks() -> Iterator[LongestCallback]:
    """Measure each callback of the asyncio loops (not uvloop) while the block runs.

    The garbage collector is off meanwhile: a full collection in a process that has run thousands
    of tests takes more than a second of CPU time, whatever the callback does.
    """
    longest = LongestCallback()
    run = asyncio.Handle._run  # type: ignore[attr-defined]

    def measured(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        longest.cpu_seconds = max(longest.cpu_seconds, time.thread_time() - began)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", measured)
        gc.collect()
        gc.disable()
        try:
            yield longest
        finally:
            gc.enable()
