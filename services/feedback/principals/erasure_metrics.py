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
from services.feedback.principals.erasures import PendingErasures

log = logging.getLogger(__name__)

REFRESH_SECONDS = 15.0


class ErasureLedger(Protocol):
    """Where it is written."""

    def pending(self) -> PendingErasures:
        """Those that are not rewritten yet. Raises: UnavailableError."""


async def update_metrics_periodically(
    erasures: ErasureLedger, seconds: float = REFRESH_SECONDS
) -> None:
    """For ever. A database that is away leaves the last look standing, but the oldest still grows
    older.
    """
    pending = PendingErasures(0, None)
    while True:
        try:
            pending = await asyncio.to_thread(erasures.pending)
        except UnavailableError as error:
            log.warning("erasures not counted", extra=fields(reason=error.reason))
        metrics.ERASURES_WAITING.set(pending.erasures)
        since = pending.oldest_us
        metrics.ERASURE_OLDEST_SECONDS.set(
            0.0 if since is None else max(0.0, time.time() - since / 1_000_000)
        )
        await asyncio.sleep(seconds)
