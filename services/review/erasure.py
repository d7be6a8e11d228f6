"""Erasure of users: removes the rows of principals in feedback's list of erasures.

These are battles and votes, items with the user's words, and the user's own reviews.

The list is read every minute by default. Later battles of an erased user are new data and remain.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

from prometheus_client import Counter, Gauge
from thumbwheel.feedback.v1 import feedback_pb2

from services.chassis.telemetry import fields
from services.contracts.wire import now_us

log = logging.getLogger(__name__)

ERASED = Counter("thumbwheel_review_erasures_total", "Erasures of users whose rows were removed.")
CHECKED = Gauge(
    "thumbwheel_review_erasures_time_seconds",
    "Time at which all erasures so far were applied, in seconds since 1970.",
)


class ErasureList(Protocol):
    """List of erasures of the feedback service."""

    async def erasures(self, after: int) -> Sequence[feedback_pb2.ErasedPrincipal]:
        """Return entries after a number in order; empty if there are none.

        Raises:
            ServiceError: the feedback service does not answer.
        """


class ErasureStore(Protocol):
    """Rows of users; all methods raise UnavailableError without the database."""

    async def last_erasure(self) -> int:
        """Return the number of the last applied entry, or 0."""

    async def erase(self, principal: str, until_us: int, number: int) -> None:
        """Remove the principal's rows until a time, and note the number of the entry."""


class Erasures:
    """Domain logic of erasures."""

    def __init__(self, entries: ErasureList, store: ErasureStore) -> None:
        self._entries, self._store = entries, store

    async def apply(self) -> None:
        """Apply all entries that were not applied before.

        Raises:
            ServiceError: the feedback service or the database does not answer; the next call
                continues there.
        """
        last = await self._store.last_erasure()
        while entries := await self._entries.erasures(last):
            for entry in entries:
                until_us = entry.erasure.shred_time.ToMicroseconds()
                await self._store.erase(entry.principal, until_us, entry.number)
                last = entry.number
                ERASED.inc()
            log.info("erasures applied", extra=fields(number=last))
        CHECKED.set(now_us() / 1e6)
