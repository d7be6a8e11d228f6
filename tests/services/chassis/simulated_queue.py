"""Simulation of a queue with c servers in simulated time; equal seeds give equal runs.

Arrivals and work are exponential (M/M/c). A stream holds its server for some time after its first
answer, as a streamed answer does.
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
    """Period of constant load.

    `load` is the load as a share of the capacity; `slower` multiplies the work per call.
    """

    seconds: float
    load: float
    slower: float = 1.0


@dataclass(frozen=True)
class Served:
    """An admitted call.

    `seconds` is the time from the admission to the first answer, without the time in the queue.
    """

    arrived_at: float
    queue_seconds: float
    seconds: float

    @property
    def answered(self) -> float:
        return self.arrived_at + self.queue_seconds + self.seconds


@dataclass
class SimulationResult:
    """Served calls and times of refusals of one run."""

    served: list[Served] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def latency(self, share: float, since: float, until: float) -> float:
        """Return a quantile of the seconds to the first answer, queue included.

        Admitted calls that arrived from `since` to `until` count.
        """
        ordered = sorted(
            call.queue_seconds + call.seconds
            for call in self.served
            if since <= call.arrived_at < until
        )
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def answered(self, since: float, until: float) -> int:
        return sum(since <= call.answered < until for call in self.served)

    def refusals(self, since: float, until: float) -> int:
        return sum(since <= arrival < until for arrival in self.refused)


@dataclass(frozen=True)
class Servers:
    """Servers with a mean work of `work_seconds` per call, then held for `held_seconds`."""

    count: int
    work_seconds: float
    held_seconds: float = 0.0

    @property
    def calls_a_second(self) -> float:
        return self.count / (self.work_seconds + self.held_seconds)


class SimulatedQueue:
    """One run of the simulation."""

    def __init__(self, seed: int, servers: Servers, floor: int = 4, ceiling: int = 500) -> None:
        self._random, self._servers = random.Random(seed), servers
        self._floor, self._ceiling = floor, ceiling
        self.result = SimulationResult()

    def run(self, phases: Sequence[Phase]) -> SimulationResult:
        """Simulate the phases, and wait for the end of all calls."""
        simulate(self._play(phases))
        return self.result

    async def _play(self, phases: Sequence[Phase]) -> None:
        clock, began = asyncio.get_running_loop().time, 0.0
        admission = Admission("simulated", self._floor, self._ceiling, 1.0, clock)
        free = asyncio.Semaphore(self._servers.count)
        async with asyncio.TaskGroup() as calls:
            for phase in phases:
                arrival, mean = began, 1 / (phase.load * self._servers.calls_a_second)
                began += phase.seconds
                while (arrival := arrival + self._draw(mean)) < began:
                    await asyncio.sleep(arrival - clock())
                    work, held = (
                        self._draw(self._servers.work_seconds * phase.slower),
                        self._draw(self._servers.held_seconds),
                    )
                    calls.create_task(self._call(admission, free, work, held))

    async def _call(
        self, admission: Admission, free: asyncio.Semaphore, work: float, held: float
    ) -> None:
        clock = asyncio.get_running_loop().time
        arrived_at = clock()
        try:
            ticket = await admission.enter("work")
        except ResourceExhaustedError:
            self.result.refused.append(arrived_at)
            return
        async with free:
            await asyncio.sleep(work)
            admission.answered(ticket)
            self.result.served.append(
                Served(arrived_at, ticket.admitted_at - arrived_at, clock() - ticket.admitted_at)
            )
            await asyncio.sleep(held)
        admission.leave(ticket)

    def _draw(self, mean: float) -> float:
        return self._random.expovariate(1 / mean) if mean else 0.0
