"""Admission control: a limit on the calls that wait for their first answer, and a short queue for
the calls above the limit.

The limit is a gradient controller after Envoy's adaptive concurrency filter (envoyproxy.io,
"Adaptive Concurrency") and Netflix's concurrency-limits: limit × gradient, the tolerated latency
over the latency now. The order of the queue is adaptive LIFO (B. Maurer, "Fail at Scale", ACM Queue
13(8), 2015). docs/decisions/2026-11-28-admission.md.
"""

import asyncio
import math
import random
import statistics
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from services.chassis.errors import ResourceExhaustedError
from services.chassis.telemetry import (
    ADMISSION_LIMIT,
    ADMISSION_QUEUED,
    ADMISSION_REFUSED,
    ADMISSION_STARTING,
)

# Longest time in the queue. A burst that is served within it is served completely.
QUEUE_SECONDS = 2.0
# Latency that counts as none: TOLERANCE times the latency without load, and the time of a few turns
# of a busy event loop.
TOLERANCE, SLACK_SECONDS = 1.5, 0.02
LOWEST_GRADIENT, HIGHEST_GRADIENT = 0.5, 2.0
# The limit moves after so many answers, and not more often than every WINDOW_SECONDS.
WINDOW_CALLS, WINDOW_SECONDS = 8, 0.1
# Latency without load: the median of so many calls at the lowest limit.
UNLOADED_CALLS = 16
# It rises no faster, so that an overload of a minute is not taken for normal, and a model that
# became slower is after some minutes.
RISE_A_SECOND = 1.02
# Share of the limit that batch calls may fill.
BATCH_SHARE = 0.75


class Priority(StrEnum):
    """Interactive calls leave the queue before batch calls."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(eq=False)
class Ticket:
    """An admitted call. `alone`: no more calls than the lowest limit waited for their first answer,
    this call included.
    """

    method: str
    began: float
    alone: bool


@dataclass(eq=False)
class Place:
    """A place in the queue; `ticket` is there once the call is admitted."""

    method: str
    ticket: asyncio.Future[Ticket]


class Gradient:
    """The limit, between `floor` and `ceiling`. Times are seconds on one clock."""

    def __init__(self, floor: int, ceiling: int) -> None:
        self._floor, self._ceiling, self._limit = floor, ceiling, float(min(floor, ceiling))
        # By method: the latency without load, and when it was learned.
        self._unloaded: dict[str, tuple[float, float]] = {}
        self._alone: defaultdict[str, list[float]] = defaultdict(list)
        self._excess: list[float] = []
        self._window_began, self._most_waiting = 0.0, 0

    @property
    def allowed(self) -> int:
        """Calls that may wait for their first answer now."""
        return int(self._limit)

    def take(self, ticket: Ticket, now: float, waiting: int, *, refused: bool = False) -> None:
        """Learn from a call that was answered or refused by a peer, with `waiting` calls before
        their first answer at that time.
        """
        seconds = now - ticket.began
        if ticket.alone and not refused:
            self._learn(ticket.method, seconds, now)
        if ticket.began < self._window_began:
            return  # admitted under an earlier limit
        self._most_waiting = max(self._most_waiting, waiting)
        unloaded, _ = self._unloaded.get(ticket.method, (seconds, now))
        allowed = TOLERANCE * unloaded + SLACK_SECONDS
        self._excess.append(math.inf if refused else seconds / allowed)
        if len(self._excess) >= WINDOW_CALLS and now - self._window_began >= WINDOW_SECONDS:
            self._move(now)

    def _learn(self, method: str, seconds: float, now: float) -> None:
        taken = self._alone[method]
        taken.append(seconds)
        if len(taken) == UNLOADED_CALLS:
            known, learned_at = self._unloaded.get(method, (math.inf, now))
            most = known * RISE_A_SECOND ** (now - learned_at)
            self._unloaded[method] = min(statistics.median(taken), most), now
            taken.clear()

    def _move(self, now: float) -> None:
        excess = min(
            1 / LOWEST_GRADIENT, max(1 / HIGHEST_GRADIENT, statistics.median_low(self._excess))
        )
        gradient = 1 / excess
        # A limit that is not reached says nothing about a higher one.
        if gradient < 1 or 2 * self._most_waiting >= self._limit:
            self._limit = min(self._ceiling, max(self._floor, self._limit * gradient))
        self._excess.clear()
        self._window_began, self._most_waiting = now, 0


class Admission:
    """Admits calls: `enter` before the work, `answered` at the first answer, `leave` at the end."""

    def __init__(
        self,
        door: str,
        floor: int,
        ceiling: int,
        retry_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`floor` and `ceiling` bound the limit; `ceiling` also bounds the calls in flight, streams
        included, and the queue.
        """
        self._floor, self._ceiling = floor, ceiling
        self._retry_seconds, self._clock = retry_seconds, clock
        self._gradient = Gradient(floor, ceiling)
        self._starting: set[Ticket] = set()
        self._in_flight = 0
        self._queues: dict[Priority, deque[Place]] = {priority: deque() for priority in Priority}
        self._queue_began = 0.0
        self._refused = ADMISSION_REFUSED.labels(door)
        ADMISSION_LIMIT.labels(door).set_function(lambda: self._gradient.allowed)
        ADMISSION_STARTING.labels(door).set_function(lambda: len(self._starting))
        ADMISSION_QUEUED.labels(door).set_function(lambda: self._queued)

    @asynccontextmanager
    async def admitted(
        self,
        method: str,
        priority: Priority = Priority.INTERACTIVE,
        queue_seconds: float = QUEUE_SECONDS,
    ) -> AsyncIterator[Ticket]:
        """Enter, and leave with the block; a ResourceExhaustedError from the block counts as a
        refusal by a peer. Raises: as `enter`.
        """
        ticket = await self.enter(method, priority, queue_seconds)
        try:
            yield ticket
        except ResourceExhaustedError as error:
            if error.is_load:
                self.answered(ticket, refused=True)
            raise
        finally:
            self.leave(ticket)

    async def enter(
        self,
        method: str,
        priority: Priority = Priority.INTERACTIVE,
        queue_seconds: float = QUEUE_SECONDS,
    ) -> Ticket:
        """Admit a call, at once or after at most `queue_seconds` (never more than QUEUE_SECONDS) in
        the queue.

        Raises:
            ResourceExhaustedError: there was no place in time, or the queue is full; with a retry
                delay.
        """
        if not self._queued and self._has_room(priority):
            return self._admit(method)
        if self._queued >= self._ceiling:
            raise self._refusal()
        self._queue_began = self._queue_began if self._queued else self._clock()
        place = Place(method, asyncio.get_running_loop().create_future())
        queue = self._queues[priority]
        queue.append(place)
        # Behind batch calls that wait for their share there may be a place for an interactive one.
        self._call_next()
        try:
            async with asyncio.timeout(min(queue_seconds, QUEUE_SECONDS)):
                return await place.ticket
        except BaseException as error:
            if place in queue:
                queue.remove(place)
            elif not place.ticket.cancelled():
                # Admitted at the moment at which the caller left.
                self.leave(place.ticket.result())
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def answered(self, ticket: Ticket, *, refused: bool = False) -> None:
        """The first answer is out, or a peer refused the call. Later answers may be reported too."""
        if ticket in self._starting:
            self._gradient.take(ticket, self._clock(), len(self._starting), refused=refused)
            self._starting.remove(ticket)
            self._call_next()

    def set_aside(self, ticket: Ticket) -> None:
        """The call waits for something that is no load: it takes no place any more, and its latency
        is not learned.
        """
        self._starting.discard(ticket)
        self._call_next()

    def leave(self, ticket: Ticket) -> None:
        """The call has ended. A call that failed before its first answer is no measure of latency."""
        self._in_flight -= 1
        self.set_aside(ticket)

    @property
    def _queued(self) -> int:
        return sum(map(len, self._queues.values()))

    def _has_room(self, priority: Priority) -> bool:
        share = BATCH_SHARE if priority is Priority.BATCH else 1
        return (
            len(self._starting) < self._gradient.allowed * share and self._in_flight < self._ceiling
        )

    def _admit(self, method: str) -> Ticket:
        # Only at its beginning: a long call is more likely to meet others, and the rest would be
        # the short ones.
        ticket = Ticket(method, self._clock(), alone=len(self._starting) < self._floor)
        self._starting.add(ticket)
        self._in_flight += 1
        return ticket

    def _call_next(self) -> None:
        """Admit from the queue: the oldest caller first, and the newest first once the queue has
        stood longer than a burst.
        """
        for priority, queue in self._queues.items():
            while queue and self._has_room(priority):
                newest = self._clock() - self._queue_began > QUEUE_SECONDS
                place = queue.pop() if newest else queue.popleft()
                if not place.ticket.done():
                    place.ticket.set_result(self._admit(place.method))
            if queue:
                return

    def _refusal(self) -> ResourceExhaustedError:
        self._refused.inc()
        return ResourceExhaustedError(
            "too many calls wait for their first answer",
            limit=f"{self._gradient.allowed} at once",
            retry_seconds=self._retry_seconds * random.uniform(0.5, 1.5),
        )
