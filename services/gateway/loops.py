"""What runs beside the calls as long as the gateway does. A loop that fails is a defect: it is
said, and the loop goes on.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0

Loop = Callable[[], Awaitable[None]]


@asynccontextmanager
async def looping(*loops: Loop) -> AsyncIterator[None]:
    """The loops run until the block ends."""
    tasks = [asyncio.create_task(_run(loop)) for loop in loops]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run(loop: Loop) -> None:
    while True:
        try:
            await loop()
        except Exception:
            log.exception("loop failed", extra=fields(loop=getattr(loop, "__qualname__", "")))
        await asyncio.sleep(PAUSE_SECONDS)
