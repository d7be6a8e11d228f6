"""Puts small deltas together: the first goes at once, later ones wait for each other, because every message costs every hop."""

import asyncio
from collections.abc import AsyncIterator


async def coalesced(pieces: "asyncio.Queue[str | None]", window_seconds: float) -> AsyncIterator[str]:
    """Texts from the queue until None, at most one in `window_seconds` but for the first and the last."""
    loop = asyncio.get_running_loop()
    last = float("-inf")
    while (piece := await pieces.get()) is not None:
        wait = last + window_seconds - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        parts: list[str] = [piece]
        ended = False
        while not pieces.empty() and not ended:
            more = pieces.get_nowait()
            ended = more is None
            parts.append(more or "")
        yield "".join(parts)
        last = loop.time()
        if ended:
            return
