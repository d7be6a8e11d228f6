"""A queue before c servers in simulated time: arrivals and work are drawn from a seed, so the same
seed gives the same run.

Work is exponential (M/M/c). A stream holds its server for a while after its first answer, as an
answer that is written does.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.chassis.admission import Admission
from services.chassis.errors import ResourceExhaustedError
from tests.support.simulated_time import simulate


@dataclass(frozen=True)
class Phase:
    """A time of constant load: `load` is the share of what the servers can do; `slower` multiplies
    the work.
    """

    seconds: float
    load: float
    slower: float = 1.0


@dataclass(frozen=True)
class Served:
    """An admitted call: when it came, the time in the queue, and the time from its admission to its
    first answer.
    """

    came: float
    queue_seconds: float
    seconds: float

    @property
    def answered(self) -> float:
        return self.came + self.queue_seconds + self.seconds


@dataclass
class Story:
    """What happened."""

    served: list[Served] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def latency(self, share: float, since: float, until: float) -> float:
        """A quantile of seconds to the first answer, queue included, of the admitted calls that
        came within a time.
        """
        ordered = sorted(
            call.queue_seconds + call.seconds for call in self.served if since <= call.came < until
        )
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def answered(self, since: float, until: float) -> int:
        return sum(since <= call.answered < until for call in self.served)

    def refusals(self, since: float, until: float) -> int:
        return sum(since <= moment < until for moment in self.refused)


@dataclass(frozen=True)
class Servers:
    """`count` servers that need `work_seconds` a call on average, and are held for `held_seconds`
    after it.
    """

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
        self._floor, self._ceiling = floor, ceiling
        self.story = Story()

    def run(self, phases: Sequence[Phase]) -> Story:
        """Play the phases, then let all calls end."""
        simulate(self._play(phases))
        return self.story

    async def _play(self, phases: Sequence[Phase]) -> None:
        clock, began = asyncio.get_running_loop().time, 0.0
        admission = Admission("simulated", self._floor, self._ceiling, 1.0, clock)
        free = asyncio.Semaphore(self._servers.count)
        async with asyncio.TaskGroup() as calls:
            for phase in phases:
                moment, mean = began, 1 / (phase.load * self._servers.calls_a_second)
                began += phase.seconds
                while (moment := moment + self._draw(mean)) < began:
                    await asyncio.sleep(moment - clock())
                    work, held = (
                        self._draw(self._servers.work_seconds * phase.slower),
                        self._draw(self._servers.held_seconds),
                    )
                    calls.create_task(self._call(admission, free, work, held))

    async def _call(
        self, admission: Admission, free: asyncio.Semaphore, work: float, held: float
    ) -> None:
        clock = asyncio.get_running_loop().time
        came = clock()
        try:
            ticket = await admission.enter("work")
        except ResourceExhaustedError:
            self.story.refused.append(came)
            return
        async with free:
            await asyncio.sleep(work)
            admission.answered(ticket)
            self.story.served.append(
                Served(came, ticket.admitted_at - came, clock() - ticket.admitted_at)
            )
            await asyncio.sleep(held)
        admission.leave(ticket)

    def _draw(self, mean: float) -> float:
        return self._random.expovariate(1 / mean) if mean else 0.0
