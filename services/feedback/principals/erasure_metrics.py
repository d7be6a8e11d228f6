"""Erasures for Prometheus: how many wait for their objects to be rewritten, and since when the
oldest does.
"""

import asyncio
import logging
import time
from typing import Protocol

from services.chassis.errors import UnavailableError
from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.principals.erasures import Waiting

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0


class Ledger(Protocol):
    """Where it is written."""

    def waiting(self) -> Waiting:
        """Those that are not rewritten yet. Raises: UnavailableError."""


async def keep_counting(erasures: Ledger, seconds: float = LOOK_SECONDS) -> None:
    """For ever. A database that is away leaves the last look standing, but the oldest still grows
    older.
    """
    waiting = Waiting(0, None)
    while True:
        try:
            waiting = await asyncio.to_thread(erasures.waiting)
        except UnavailableError as error:
            log.warning("erasures not counted", extra=fields(reason=error.reason))
        metrics.ERASURES_WAITING.set(waiting.erasures)
        since = waiting.oldest_us
        metrics.ERASURE_OLDEST_SECONDS.set(
            0.0 if since is None else max(0.0, time.time() - since / 1_000_000)
        )
        await asyncio.sleep(seconds)
