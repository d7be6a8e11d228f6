"""Relay of events of votes and reviews from the outbox to the feedback service, at least once.

A row is removed after its acknowledgement. The feedback service recognises events by id, so that an
event sent twice counts once, and replicas may relay at the same time. An event that is refused for
its content is sent again after a longer time: a feedback service of an earlier release refuses
rankings until it is upgraded.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter, Gauge
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    PermissionDeniedError,
    ServiceError,
)
from services.chassis.identity import Caller
from services.chassis.retries import retry_delay
from services.chassis.telemetry import fields
from services.review.store.outbox import OutboxRow, Waiting

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.25
# Errors about the content of one event; other events may succeed.
REFUSALS = (InvalidArgumentError, AlreadyExistsError, PermissionDeniedError)

RELAYED = Counter(
    "thumbwheel_review_votes_relayed_total",
    "Events of votes and reviews acknowledged by the feedback service.",
)
REFUSED = Counter(
    "thumbwheel_review_votes_refused_total",
    "Attempts to send an event that the feedback service refused for its content.",
)
WAITING = Gauge(
    "thumbwheel_review_outbox_votes",
    "Events of votes and reviews that wait for the feedback service.",
)


class Outbox(Protocol):
    """Events that wait in the database."""

    async def waiting(self, now_us: int) -> Waiting:
        """Return the due events and the number of all waiting ones."""

    async def remove(self, row: OutboxRow) -> None:
        """Remove an acknowledged event."""

    async def postpone(self, row: OutboxRow, until_us: int) -> None:
        """Set the time of the next attempt."""


class FeedbackLog(Protocol):
    """Destination of the events."""

    async def record(self, caller: Caller, event: events_pb2.FeedbackEvent) -> None:
        """Record an event for a user; return when the event is durable.

        Raises:
            ServiceError: the event was not recorded.
        """


@dataclass(frozen=True)
class RelayIntervals:
    """Intervals of the relay, in seconds.

    Args:
        poll_seconds: longest time between two reads of the outbox.
        max_backoff_seconds: longest pause after a failure.
        refused_seconds: time until a refused event is sent again.
    """

    poll_seconds: float
    max_backoff_seconds: float
    refused_seconds: float


class Relay:
    """Background task that moves events from the outbox to the feedback service."""

    def __init__(
        self,
        outbox: Outbox,
        feedback: FeedbackLog,
        intervals: RelayIntervals,
        now_us: Callable[[], int],
    ) -> None:
        self._outbox, self._feedback = outbox, feedback
        self._intervals, self._now_us = intervals, now_us
        self._new_events = asyncio.Event()
        self._stopping = asyncio.Event()

    def wake(self) -> None:
        """Report a new event in the outbox."""
        self._new_events.set()

    def stop(self) -> None:
        """End `run` after the waiting events, or at the next failure."""
        self._stopping.set()
        self.wake()

    async def run(self) -> None:
        """Relay until `stop`; back off while the feedback service or database is unavailable."""
        failures = 0
        while True:
            # Cleared before the read: an event that is added during the read wakes the relay again.
            self._new_events.clear()
            try:
                while await self.relay_due():
                    pass
            except ServiceError as error:
                failures += 1
                log.warning(
                    "votes wait in the outbox",
                    extra=fields(error=type(error).__name__, failures=failures),
                )
                longest = self._intervals.max_backoff_seconds
                delay = retry_delay(failures, FIRST_BACKOFF_SECONDS, longest)
                await _pause(delay, self._stopping)
            else:
                failures = 0
                await _pause(self._intervals.poll_seconds, self._new_events)
            if self._stopping.is_set():
                return

    async def relay_due(self) -> bool:
        """Relay the due events; return True if further events may be due.

        Raises:
            ServiceError: the feedback service or the database failed; events without
                acknowledgement remain.
        """
        found = await self._outbox.waiting(self._now_us())
        waiting = found.count
        WAITING.set(waiting)
        for row in found.due:
            event = events_pb2.FeedbackEvent.FromString(row.payload)
            try:
                await self._feedback.record(row.caller, event)
            except REFUSALS as error:
                REFUSED.inc()
                log.error(
                    "vote refused by the feedback service",
                    extra=fields(row=row.id, reason=error.reason, field=error.field),
                )
                delay_us = int(self._intervals.refused_seconds * 1e6)
                await self._outbox.postpone(row, self._now_us() + delay_us)
                continue
            await self._outbox.remove(row)
            waiting -= 1
            RELAYED.inc()
            WAITING.set(waiting)
        return bool(found.due)


async def _pause(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, at most for a time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
