"""How many calls may be in flight: a limit that follows their latency, and who is refused first when it is reached.

A gradient after Netflix's concurrency-limits: where the median call of a short window takes much longer than its method usually
does, work waits somewhere behind us, and the limit falls; else it grows. Two things are ours. Calls that still wait count with
their age, so a peer that hangs is noticed though nothing ends. And what is usual is learned in quiet times and from short probes
at half the limit alone: Gradient2's long average takes a lasting overload for usual. docs/decisions/2026-11-25-admission.md.
"""

import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from services.chassis.errors import ResourceExhaustedError
from services.chassis.telemetry import ADMISSION_LIMIT

# A median at 1.5 times the mean is a queue of about 0.8 c calls before c servers (M/M/c): all are busy, nobody waits long.
TOLERANCE = 1.5
# A loop that is given fifty small calls at once is late by so much, and not overloaded.
SLACK_SECONDS = 0.02
FALL, GROWTH = 0.5, 1.5
WINDOW_SECONDS, WINDOW_CALLS = 0.05, 16
USUAL_SECONDS, USUAL_CALLS = 30.0, 32
PROBE_EVERY_SECONDS, PROBE_SECONDS, PROBE_CALLS = 10.0, 3.0, 64
# Of the limit: the rest is for interactive calls.
BATCH_SHARE = 0.75


class Priority(StrEnum):
    """Batch calls are refused first."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(eq=False)
class Ticket:
    """An admitted call: in flight until it ends, measured until its first answer."""

    method: str
    began: float


class Usual:
    """What calls of one method take in quiet times: a mean that forgets."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0.0

    @property
    def mean_seconds(self) -> float:
        """Endless before there are enough calls to say."""
        return self.seconds / self.calls if self.calls >= USUAL_CALLS else math.inf

    def learn(self, seconds: list[float], keep: float) -> None:
        """Add calls; `keep` is the share at which the earlier ones still count."""
        self.seconds, self.calls = self.seconds * keep + sum(seconds), self.calls * keep + len(seconds)


class Gradient:
    """The limit, moved once a window. Times are seconds on one clock."""

    def __init__(self, floor: int, ceiling: int) -> None:
        self._floor, self._ceiling, self._limit = floor, ceiling, float(ceiling)
        self._usual: defaultdict[str, Usual] = defaultdict(Usual)
        self._taken: defaultdict[str, list[float]] = defaultdict(list)
        self._most_in_flight = 0
        self._window_began, self._window_seconds = 0.0, WINDOW_SECONDS
        # When the limit left the ceiling or was last probed, and the probe that runs.
        self._probed_at: float | None = None
        self._probe_began, self._probe_limit = math.inf, 0

    @property
    def allowed(self) -> int:
        """Calls that may be in flight now."""
        return int(self._limit) if self._probe_began == math.inf else self._probe_limit

    def take(self, ticket: Ticket, now: float, *, failed: bool = False) -> None:
        """A call was answered. One that failed counts only if it took long: quick failures say nothing about waiting."""
        seconds, probing = now - ticket.began, self._probe_began < math.inf
        if (failed and seconds < self._usual[ticket.method].mean_seconds) or (
            probing and ticket.began < self._probe_began
        ):
            return
        self._taken[ticket.method].append(seconds)

    def turn(self, now: float, in_flight: int, waiting: Collection[Ticket]) -> None:
        """Close the window if it holds enough, and move the limit."""
        self._most_in_flight = max(self._most_in_flight, in_flight)
        taken = sum(map(len, self._taken.values()))
        if self._probe_began < math.inf:
            if taken >= PROBE_CALLS or now - self._probe_began >= PROBE_SECONDS:
                self._end_probe(now)
        elif now - self._window_began >= self._window_seconds and taken + len(waiting) >= min(
            WINDOW_CALLS, self._limit
        ):
            self._move(self._pull(now, waiting), now)
            if self._probed_at is not None and now - self._probed_at >= PROBE_EVERY_SECONDS:
                self._probe_began, self._probe_limit = now, max(self._floor, in_flight - math.ceil(len(waiting) / 2))
            self._open_window(now)

    def _pull(self, now: float, waiting: Collection[Ticket]) -> float:
        """Below 1: calls wait too long. Above: there is room."""
        most = {method: TOLERANCE * usual.mean_seconds + SLACK_SECONDS for method, usual in self._usual.items()}
        excess = [seconds / most.get(method, math.inf) for method, taken in self._taken.items() for seconds in taken]
        excess += [(now - ticket.began) / most.get(ticket.method, math.inf) for ticket in waiting]
        return 1 / max(statistics.median_low(excess), 1 / GROWTH)

    def _move(self, pull: float, now: float) -> None:
        if pull < 1:
            self._limit = min(self._limit, self._most_in_flight)
        elif self._probed_at is None:
            keep = math.exp(-(now - self._window_began) / USUAL_SECONDS)
            for method, seconds in self._taken.items():
                self._usual[method].learn(seconds, keep)
        # Halfway: the calls under way were admitted under the old limit.
        self._limit = min(self._ceiling, max(self._floor, self._limit * (1 + max(pull, FALL)) / 2))
        self._probed_at = None if self._limit == self._ceiling else self._probed_at or now

    def _end_probe(self, now: float) -> None:
        for method, seconds in self._taken.items():
            usual = self._usual[method]
            usual.learn(seconds, min(1.0, PROBE_CALLS / max(usual.calls, 1)))
        self._probe_began, self._probed_at = math.inf, now
        self._open_window(now)

    def _open_window(self, now: float) -> None:
        """A window is as long as a call, so that it shows what the last move did."""
        if taken := [seconds for each in self._taken.values() for seconds in each]:
            self._window_seconds = max(WINDOW_SECONDS, statistics.fmean(taken))
        self._taken.clear()
        self._window_began, self._most_in_flight = now, 0


class Admission:
    """A door that counts who is inside: `enter`, `answered`, `leave`."""

    def __init__(
        self, door: str, floor: int, ceiling: int, retry_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._retry_seconds, self._clock = retry_seconds, clock
        self._gradient = Gradient(floor, ceiling)
        ADMISSION_LIMIT.labels(door).set_function(lambda: self._gradient.allowed)
        self._in_flight = 0
        self._waiting: set[Ticket] = set()

    def enter(self, method: str, priority: Priority = Priority.INTERACTIVE) -> Ticket:
        """Raises: ResourceExhaustedError at the limit, with a retry delay."""
        now = self._clock()
        self._gradient.turn(now, self._in_flight, self._waiting)
        allowed = int(self._gradient.allowed * (BATCH_SHARE if priority is Priority.BATCH else 1))
        if self._in_flight >= allowed:
            wait = self._retry_seconds * random.uniform(0.5, 1.5)
            raise ResourceExhaustedError("too much is under way", limit=f"{allowed} at once", retry_seconds=wait)
        ticket = Ticket(method, now)
        self._waiting.add(ticket)
        self._in_flight += 1
        return ticket

    def answered(self, ticket: Ticket) -> None:
        """The first answer is out; later ones may be told too."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._gradient.take(ticket, self._clock())

    def leave(self, ticket: Ticket) -> None:
        """The call has ended, answered or not."""
        now = self._clock()
        if ticket in self._waiting:
            self._waiting.remove(ticket)
            self._gradient.take(ticket, now, failed=True)
        self._in_flight -= 1
        self._gradient.turn(now, self._in_flight, self._waiting)
