"""Puts small deltas together: the first goes at once, later ones wait for each other, because every
message costs every hop.

The pauses grow as those of the gateway's output guard do (services/gateway/holdback.py), which
releases text no more often.
"""

import asyncio
from collections.abc import AsyncIterator

PAUSE_GROWTH, GROWN_PAUSE = 1.5, 4  # from message to message; where it ends, in `window_seconds`


async def coalesced(
    pieces: "asyncio.Queue[str | None]", window_seconds: float
) -> AsyncIterator[str]:
    """Yield texts from the queue until None: the first and the last at once, the second after
    `window_seconds`, and so on in growing pauses up to four times as long.
    """
    loop = asyncio.get_running_loop()
    last, pause = float("-inf"), window_seconds / PAUSE_GROWTH
    while (piece := await pieces.get()) is not None:
        wait = last + pause - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        parts: list[str] = [piece]
        ended = False
        while not pieces.empty() and not ended:
            more = pieces.get_nowait()
            ended = more is None
            parts.append(more or "")
        yield "".join(parts)
        pause = min(PAUSE_GROWTH * pause, GROWN_PAUSE * window_seconds)
        last = loop.time()
        if ended:
            return
