"""Background tasks of the gateway. A task that raises is logged and restarted after one second."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0

Task = Callable[[], Awaitable[None]]


@asynccontextmanager
async def background_tasks(*tasks: Task) -> AsyncIterator[None]:
    """Run the tasks until the block ends."""
    running = [asyncio.create_task(_restart_forever(task)) for task in tasks]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _restart_forever(task: Task) -> None:
    while True:
        try:
            await task()
        except Exception:
            name = getattr(task, "__qualname__", "")
            log.exception("background task failed", extra=fields(task=name))
        await asyncio.sleep(PAUSE_SECONDS)
