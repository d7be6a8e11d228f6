"""Admission control: a limit on calls that wait for their first answer, and a short queue above it.

The limit is a gradient controller after Envoy's adaptive concurrency filter (envoyproxy.io,
"Adaptive Concurrency") and Netflix's concurrency-limits: limit × gradient, where the gradient is
the tolerated latency divided by the present latency. The order of the queue is adaptive LIFO
(B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015). docs/decisions/admission.md.
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

# Longest time in the queue. A shorter burst is served completely.
QUEUE_SECONDS = 2.0
# Tolerated latency: TOLERANCE times the baseline, plus a few iterations of a busy event loop.
TOLERANCE, SLACK_SECONDS = 1.5, 0.02
MIN_GRADIENT, MAX_GRADIENT = 0.5, 2.0
# The limit changes after this many answers, and at most once per WINDOW_SECONDS.
WINDOW_CALLS, WINDOW_SECONDS = 8, 0.1
# Baseline latency: the median of this many calls at the lowest limit.
BASELINE_CALLS = 16
# Largest growth of the baseline. An overload of a minute must not become the new baseline; a model
# that became slower must, after some minutes.
BASELINE_GROWTH_PER_SECOND = 1.02
# Share of the limit that batch calls may fill.
BATCH_SHARE = 0.75


class Priority(StrEnum):
    """Class of a call: interactive calls leave the queue before batch calls."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(eq=False)
class Ticket:
    """An admitted call.

    `measures_baseline` is true if at most the lowest limit of calls waited for their first answer
    at admission, this call included.
    """

    method: str
    admitted_at: float
    measures_baseline: bool


@dataclass(eq=False)
class QueueEntry:
    """A queued call; the future gets its ticket at admission."""

    method: str
    ticket: asyncio.Future[Ticket]


class GradientLimit:
    """The limit, between `floor` and `ceiling`. Times are seconds of one clock."""

    def __init__(self, floor: int, ceiling: int) -> None:
        self._floor, self._ceiling, self._limit = floor, ceiling, float(min(floor, ceiling))
        # By method: the baseline latency and the time of its measurement.
        self._baselines: dict[str, tuple[float, float]] = {}
        self._baseline_samples: defaultdict[str, list[float]] = defaultdict(list)
        # Latency divided by tolerated latency, for each call of the current window.
        self._excess: list[float] = []
        self._window_began, self._most_waiting = 0.0, 0

    @property
    def allowed(self) -> int:
        """Number of calls that may wait for their first answer now."""
        return int(self._limit)

    def observe(self, ticket: Ticket, now: float, waiting: int, *, refused: bool = False) -> None:
        """Add the latency of an answered call, or the refusal of a peer, to the current window.

        Args:
            now: time of the answer.
            waiting: calls without a first answer at that time, this call included.
            refused: a peer refused the call; counts as an infinite latency.
        """
        seconds = now - ticket.admitted_at
        if ticket.measures_baseline and not refused:
            samples = self._baseline_samples[ticket.method]
            samples.append(seconds)
            if len(samples) == BASELINE_CALLS:
                known, measured_at = self._baselines.get(ticket.method, (math.inf, now))
                most = known * BASELINE_GROWTH_PER_SECOND ** (now - measured_at)
                self._baselines[ticket.method] = min(statistics.median(samples), most), now
                samples.clear()
        # The latency of a call that was admitted under an earlier limit measures that limit.
        if ticket.admitted_at < self._window_began:
            return
        self._most_waiting = max(self._most_waiting, waiting)
        baseline, _ = self._baselines.get(ticket.method, (seconds, now))
        tolerated = TOLERANCE * baseline + SLACK_SECONDS
        self._excess.append(math.inf if refused else seconds / tolerated)
        if len(self._excess) < WINDOW_CALLS or now - self._window_began < WINDOW_SECONDS:
            return
        # Clamped before the division: the excess may be 0, or infinite after refusals.
        excess = min(1 / MIN_GRADIENT, max(1 / MAX_GRADIENT, statistics.median_low(self._excess)))
        gradient = 1 / excess
        # A limit that is not reached gives no evidence for a higher limit.
        if gradient < 1 or 2 * self._most_waiting >= self._limit:
            self._limit = min(self._ceiling, max(self._floor, self._limit * gradient))
        self._excess.clear()
        self._window_began, self._most_waiting = now, 0


class Admission:
    """Admits calls: `enter` before the work, `answered` at the first answer, `leave` at the end."""

    def __init__(
        self,
        limiter: str,
        floor: int,
        ceiling: int,
        retry_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the admission of one entry point.

        Args:
            limiter: value of the metrics' label `limiter`.
            floor: lowest limit; this many calls may always wait for their first answer.
            ceiling: highest limit; also bounds the calls in flight (streams included) and the
                queue.
            retry_seconds: mean delay after which a refused caller should try again.
            clock: seconds of a monotonic clock.
        """
        self._floor, self._ceiling = floor, ceiling
        self._retry_seconds, self._clock = retry_seconds, clock
        self._limit = GradientLimit(floor, ceiling)
        self._starting: set[Ticket] = set()
        self._in_flight = 0
        self._queues: dict[Priority, deque[QueueEntry]] = {kind: deque() for kind in Priority}
        self._queue_began = 0.0
        self._refused = ADMISSION_REFUSED.labels(limiter)
        ADMISSION_LIMIT.labels(limiter).set_function(lambda: self._limit.allowed)
        ADMISSION_STARTING.labels(limiter).set_function(lambda: len(self._starting))
        ADMISSION_QUEUED.labels(limiter).set_function(lambda: self._queued)

    @asynccontextmanager
    async def admitted(
        self,
        method: str,
        priority: Priority = Priority.INTERACTIVE,
        queue_seconds: float = QUEUE_SECONDS,
    ) -> AsyncIterator[Ticket]:
        """Call `enter` before the block and `leave` after the block.

        A ResourceExhaustedError of the block that reports load counts as a refusal by a peer.

        Raises:
            ResourceExhaustedError: as `enter`.
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
        """Admit a call at once, or after at most `queue_seconds` (≤ QUEUE_SECONDS) in the queue.

        Raises:
            ResourceExhaustedError: no capacity became free in time, or the queue is full; with a
                retry delay.
        """
        if not self._queued and self._has_room(priority):
            return self._admit(method)
        if self._queued >= self._ceiling:
            raise self._refusal()
        self._queue_began = self._queue_began if self._queued else self._clock()
        entry = QueueEntry(method, asyncio.get_running_loop().create_future())
        queue = self._queues[priority]
        queue.append(entry)
        # Queued batch calls may wait for their share while an interactive call has room.
        self._admit_queued()
        try:
            async with asyncio.timeout(min(queue_seconds, QUEUE_SECONDS)):
                return await entry.ticket
        except BaseException as error:
            if entry in queue:
                queue.remove(entry)
            elif not entry.ticket.cancelled():
                # The call was admitted in the same iteration in which its caller gave up.
                self.leave(entry.ticket.result())
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def answered(self, ticket: Ticket, *, refused: bool = False) -> None:
        """Record the first answer or the refusal by a peer; later reports of a call are ignored."""
        if ticket in self._starting:
            self._limit.observe(ticket, self._clock(), len(self._starting), refused=refused)
            self._starting.remove(ticket)
            self._admit_queued()

    def exempt(self, ticket: Ticket) -> None:
        """Stop counting a call that waits for a reason other than load; ignore its latency."""
        self._starting.discard(ticket)
        self._admit_queued()

    def leave(self, ticket: Ticket) -> None:
        """Record the end of a call; a failure before the first answer measures no latency."""
        self._in_flight -= 1
        self.exempt(ticket)

    @property
    def _queued(self) -> int:
        return sum(map(len, self._queues.values()))

    def _has_room(self, priority: Priority) -> bool:
        share = BATCH_SHARE if priority is Priority.BATCH else 1
        return len(self._starting) < self._limit.allowed * share and self._in_flight < self._ceiling

    def _admit(self, method: str) -> Ticket:
        # Decided at admission only: a long call meets others more often, so a check at the answer
        # would select short calls.
        measures_baseline = len(self._starting) < self._floor
        ticket = Ticket(method, self._clock(), measures_baseline)
        self._starting.add(ticket)
        self._in_flight += 1
        return ticket

    def _admit_queued(self) -> None:
        """Admit queued calls while there is room.

        Oldest first; newest first once the queue has existed for longer than QUEUE_SECONDS, since
        the oldest callers are then about to give up.
        """
        for priority, queue in self._queues.items():
            while queue and self._has_room(priority):
                newest = self._clock() - self._queue_began > QUEUE_SECONDS
                entry = queue.pop() if newest else queue.popleft()
                # A cancelled caller removes its entry only when it runs again.
                if not entry.ticket.done():
                    entry.ticket.set_result(self._admit(entry.method))
            if queue:
                return

    def _refusal(self) -> ResourceExhaustedError:
        self._refused.inc()
        return ResourceExhaustedError(
            "too many calls wait for their first answer",
            limit=f"{self._limit.allowed} at once",
            # Jitter: refused callers must not return all at once.
            retry_seconds=self._retry_seconds * random.uniform(0.5, 1.5),
        )
