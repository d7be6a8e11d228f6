"""R3, F40: a service gets two and five times its capacity, serves at capacity and rejects the rest.

Rejections have a retry delay. After the overload no call is rejected. Latencies and shares are
recorded, not asserted.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from tests.faults.processes import replica

# Calls per second that two cores of a busy machine can send and serve in addition. The queue is
# overloaded, not the cores. Service times are random, as in the simulated queue of the same limiter
# (tests/services/chassis), which has the quantitative goals.
SERVERS, WORK_SECONDS = 8, 0.1
CAPACITY = SERVERS / WORK_SECONDS
MOST_RECOVERY_SECONDS = 5.0


@dataclass(frozen=True)
class Phase:
    """A phase of the test. `load` is relative to the capacity."""

    load: float
    seconds: float


@dataclass
class Seen:
    """Outcomes of the calls in one phase, with their durations in seconds."""

    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    with_a_time: int = 0

    def p99(self, seconds: list[float]) -> float:
        return sorted(seconds)[int(0.99 * len(seconds))] if seconds else 0.0


async def send(stub: Any, phase: Phase, chance: random.Random) -> Seen:
    """Send calls at fixed times, independent of earlier calls."""
    seen, began, moment, calls = Seen(), time.monotonic(), 0.0, []
    while (moment := moment + chance.expovariate(phase.load * CAPACITY)) < phase.seconds:
        await asyncio.sleep(began + moment - time.monotonic())
        calls.append(asyncio.create_task(call(stub, chance.expovariate(1 / WORK_SECONDS), seen)))
    await asyncio.gather(*calls)
    return seen


async def call(stub: Any, work_seconds: float, seen: Seen) -> None:
    began = time.monotonic()
    try:
        await stub.Enhance(enhancer_pb2.EnhanceRequest(text=f"work {work_seconds:.3f}"), timeout=30)
        seen.served.append(time.monotonic() - began)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            seen.refused.append(time.monotonic() - began)
            seen.with_a_time += "retry" in str(error.trailing_metadata()).lower()
        else:
            seen.others.append(error.code().name)


SHORT = (Phase(0.5, 2), Phase(3, 3))
WHOLE = (
    Phase(0.5, 20),
    Phase(2, 60),
    Phase(0.5, MOST_RECOVERY_SECONDS),
    Phase(0.5, 15),
    Phase(5, 60),
)


@pytest.mark.parametrize(
    "phases",
    [pytest.param(SHORT, id="short"), pytest.param(WHOLE, id="whole", marks=pytest.mark.long)],
)
async def test_f40_overloaded_service_serves_at_capacity_and_rejects_the_rest(
    phases: tuple[Phase, ...], record_property: Any
) -> None:
    chance = random.Random(40)
    async with (
        replica(servers=SERVERS, sure_concurrent_rpcs=SERVERS // 2) as process,
        grpc.aio.insecure_channel(process.target) as channel,
    ):
        stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
        await send(stub, Phase(0.3, 0.5), chance)
        seen = [await send(stub, phase, chance) for phase in phases]
    calm, loaded = seen[0], seen[1]
    unloaded, goodput = calm.p99(calm.served), len(loaded.served) / (phases[1].seconds * CAPACITY)
    assert loaded.refused, "it was never full"
    # At fivefold load the process may lack the time for rejections. The resulting gRPC errors are
    # recorded.
    assert [phase.others for phase in seen[:4]] == [[]] * min(4, len(seen))
    assert calm.refused == []
    assert loaded.with_a_time == len(loaded.refused), "rejections have a retry time"
    record_property("fired", sum(len(phase.refused) for phase in seen))
    record_property("goodput_at_twice_the_load", round(goodput, 2))
    record_property("p99_ms_unloaded", round(unloaded * 1000))
    record_property("p99_ms_of_the_admitted", round(loaded.p99(loaded.served) * 1000))
    record_property(
        "p50_ms_of_refusals", round(sorted(loaded.refused)[len(loaded.refused) // 2] * 1000, 1)
    )
    if phases is WHOLE:
        again, five = seen[3], seen[4]
        record_property(
            "goodput_at_five_times_the_load",
            round(len(five.served) / (phases[4].seconds * CAPACITY), 2),
        )
        record_property("neither_served_nor_refused_at_five_times", len(five.others))
        record_property("p99_ms_five_seconds_after", round(again.p99(again.served) * 1000))
        record_property("refused_five_seconds_after", len(again.refused))
        assert again.refused == []
