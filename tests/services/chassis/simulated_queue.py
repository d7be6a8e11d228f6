"""A queue before c servers with a virtual clock: arrivals and work are drawn from a seed, so the same seed tells the same story.

Work is exponential (M/M/c). A stream holds its server for a while after its first answer, as an answer that is written does.
"""

import heapq
import itertools
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.chassis.admission import Admission, Ticket
from services.chassis.errors import ResourceExhaustedError


@dataclass(frozen=True)
class Phase:
    """A time of constant load: `load` is the share of what the servers can do; `slower` multiplies the work."""

    seconds: float
    load: float
    slower: float = 1.0


@dataclass(frozen=True)
class Served:
    """An admitted call: when it came, and how long until its first answer."""

    came: float
    seconds: float


@dataclass
class Story:
    """What happened."""

    served: list[Served] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    def latency(self, share: float, since: float, until: float) -> float:
        """A quantile of the admitted calls that came within a time, in seconds."""
        ordered = sorted(call.seconds for call in self.served if since <= call.came < until)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def answered(self, since: float, until: float) -> int:
        return sum(since <= call.came + call.seconds < until for call in self.served)

    def refusals(self, since: float, until: float) -> int:
        return sum(since <= moment < until for moment in self.refused)


@dataclass(frozen=True)
class Servers:
    """`count` servers that need `work_seconds` a call on average, and are held for `held_seconds` after it."""

    count: int
    work_seconds: float
    held_seconds: float = 0.0

    @property
    def calls_a_second(self) -> float:
        return self.count / (self.work_seconds + self.held_seconds)


class SimulatedQueue:
    """One run."""

    def __init__(self, seed: int, servers: Servers, floor: int = 4, ceiling: int = 500) -> None:
        self._random, self._servers = random.Random(seed), servers
        self._now, self._numbers = 0.0, itertools.count()
        self._events: list[tuple[float, int, str, Ticket | float]] = []
        self._line: deque[tuple[Ticket, float]] = deque()
        self._busy = 0
        self.admission = Admission("simulated", floor, ceiling, 1.0, clock=lambda: self._now)
        self.story = Story()

    def run(self, phases: Sequence[Phase]) -> Story:
        """Play the phases, then let everybody out."""
        began = 0.0
        for phase in phases:
            moment = began
            while (
                moment := moment + self._draw(1 / (phase.load * self._servers.calls_a_second))
            ) < began + phase.seconds:
                self._plan(moment, "comes", self._draw(self._servers.work_seconds * phase.slower))
            began += phase.seconds
        while self._events:
            self._now, _, what, about = heapq.heappop(self._events)
            if isinstance(about, float):
                self._come(about)
            elif what == "answered":
                self._answer(about)
            else:
                self._end(about)
        return self.story

    def _draw(self, mean: float) -> float:
        return self._random.expovariate(1 / mean) if mean else 0.0

    def _plan(self, moment: float, what: str, about: Ticket | float) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), what, about))

    def _come(self, work_seconds: float) -> None:
        try:
            ticket = self.admission.enter("work")
        except ResourceExhaustedError as error:
            self.story.refused.append(self._now)
            self.story.limits.append(int(error.limit.split()[0]))
            return
        self._line.append((ticket, work_seconds))
        self._serve()

    def _serve(self) -> None:
        while self._line and self._busy < self._servers.count:
            ticket, work_seconds = self._line.popleft()
            self._busy += 1
            self._plan(self._now + work_seconds, "answered", ticket)

    def _answer(self, ticket: Ticket) -> None:
        self.admission.answered(ticket)
        self.story.served.append(Served(ticket.began, self._now - ticket.began))
        self._plan(self._now + self._draw(self._servers.held_seconds), "ends", ticket)

    def _end(self, ticket: Ticket) -> None:
        self.admission.leave(ticket)
        self._busy -= 1
        self._serve()
