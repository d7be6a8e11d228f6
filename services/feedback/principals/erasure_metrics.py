"""Prometheus metrics of erasures: number and age of pending rewrites."""

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
    """Source of the pending erasures."""

    def pending(self) -> PendingErasures:
        """Return the erasures not rewritten yet.

        Raises:
            UnavailableError: The database does not answer.
        """


async def update_metrics_periodically(
    erasures: ErasureLedger, seconds: float = REFRESH_SECONDS
) -> None:
    """Update the metrics until cancelled.

    While the database is unavailable the last count stays, and the age of the oldest erasure still
    grows.
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
