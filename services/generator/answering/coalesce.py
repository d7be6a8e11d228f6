"""Coalescing of small text deltas, because every message costs time at every hop.

The first delta is sent at once; later deltas are collected during pauses. The pauses grow like
those of the gateway's output guard (services/gateway/answering/holdback.py), which releases text
no more often.
"""

import asyncio
from collections.abc import AsyncIterator

PAUSE_GROWTH = 1.5  # factor from one message to the next
MAX_PAUSE = 4  # upper limit, in multiples of `window_seconds`


async def coalesced(
    deltas: "asyncio.Queue[str | None]", window_seconds: float
) -> AsyncIterator[str]:
    """Yield the texts of the queue until None, in growing pauses.

    The first and the last text are yielded at once and the second after `window_seconds`. Later
    pauses grow by PAUSE_GROWTH up to MAX_PAUSE times `window_seconds`.
    """
    loop = asyncio.get_running_loop()
    last, pause = float("-inf"), window_seconds / PAUSE_GROWTH
    while (delta := await deltas.get()) is not None:
        wait = last + pause - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        parts: list[str] = [delta]
        ended = False
        # Everything that arrived during the pause becomes one message.
        while not deltas.empty() and not ended:
            more = deltas.get_nowait()
            ended = more is None
            parts.append(more or "")
        yield "".join(parts)
        pause = min(PAUSE_GROWTH * pause, MAX_PAUSE * window_seconds)
        last = loop.time()
        if ended:
            return
