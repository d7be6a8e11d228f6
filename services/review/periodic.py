"""Work that a background task repeats."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from services.chassis.errors import ServiceError
from services.chassis.retries import retry_delay
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 1.0


class Periodic:
    """Repeats work until `stop`, and after a failure sooner than usual.

    Failures are logged at the level INFO for the first `seconds`, because a called service may be
    starting, and at WARNING afterwards.

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
        failures, succeeded = 0, time.monotonic()
        while not self._stopping.is_set():
            try:
                await self._work()
                failures, succeeded = 0, time.monotonic()
                pause = self._seconds
            except ServiceError as error:
                failures += 1
                is_late = time.monotonic() - succeeded > self._seconds
                log.log(
                    logging.WARNING if is_late else logging.INFO,
                    "periodic work failed",
                    extra=fields(work=self._name, error=type(error).__name__),
                )
                pause = retry_delay(failures, FIRST_RETRY_SECONDS, self._seconds)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
