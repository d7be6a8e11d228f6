"""Work that a background task repeats."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from services.chassis.errors import ServiceError
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)


class Periodic:
    """Repeats work until `stop`; a failure is logged, and the work repeated as usual.

    Args:
        name: name of the work in the log.
        seconds: pause after each run.
        work: one run.
    """

    def __init__(self, name: str, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        self._name, self._seconds, self._work = name, seconds, work
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End `run` after the present run of the work."""
        self._stopping.set()

    async def run(self) -> None:
        """Repeat the work until `stop`."""
        while not self._stopping.is_set():
            try:
                await self._work()
            except ServiceError as error:
                log.warning(
                    "periodic work failed",
                    extra=fields(work=self._name, error=type(error).__name__),
                )
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._stopping.wait()
