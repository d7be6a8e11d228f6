"""R8: ten minutes of readers who disconnect during answers.

Memory and open files of the gateway stay constant, and its event loop stays responsive.
"""

import asyncio
import os
import re
import statistics
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2

from tests.faults.gateway_process import GatewayProcess, gateway_process
from tests.services.gateway.fakes import backends

STREAMS_A_SECOND = 20.0
LOOK_SECONDS = 5.0
# Share of the run in which allocator and caches reach their size.
WARM_UP = 0.3
# The goal is 1 MB per hour at one cancelled stream per second. The limit is the smallest slope
# distinguishable from noise in ten minutes.
MOST_MIB_AN_HOUR = 3.0
MOST_LAG_SECONDS = 0.05


async def disconnect_during_answer(gateway: GatewayProcess, number: int) -> bool:
    """Start a turn and disconnect during the answer. Returns True if an answer had begun."""
    cancel = chat_pb2.DISCONNECT_POLICY_CANCEL
    call = gateway.clients.send(
        "What is it?", request_id=f"r{number}", timeout=30, on_disconnect=cancel
    )
    try:
        async for event in call:
            if event.HasField("text_delta"):
                return True
    except grpc.aio.AioRpcError as error:
        # Admission control may reject on a busy machine.
        assert error.code() in (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
    finally:
        call.cancel()
    return False


class Measurements:
    """Periodic measurements of the process."""

    def __init__(self, pid: int) -> None:
        self._pid, self._began = pid, time.monotonic()
        self.seconds: list[float] = []
        self.mib: list[float] = []
        self.files: list[int] = []

    def look(self) -> None:
        status = Path(f"/proc/{self._pid}/status").read_text()
        self.seconds.append(time.monotonic() - self._began)
        self.mib.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        self.files.append(sum(1 for _ in Path(f"/proc/{self._pid}/fd").iterdir()))

    def mib_per_hour(self) -> float:
        """Return the slope of a line through the measurements after the warm-up."""
        first = int(WARM_UP * len(self.mib))
        return statistics.linear_regression(self.seconds[first:], self.mib[first:]).slope * 3_600


async def loop_lag_p99(gateway: GatewayProcess) -> float:
    """Return the upper bound of the histogram bucket in seconds."""
    async with gateway.clients.http.get(f"{gateway.clients.url}/metrics") as answer:
        found = re.findall(
            r'thumbwheel_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', await answer.text()
        )
    buckets = [(float(bound), float(count)) for bound, count in found]
    return next(bound for bound, count in buckets if count >= 0.99 * buckets[-1][1])


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("seconds", [600.0])
async def test_r08_disconnected_readers_leak_no_memory_and_files(
    tmp_path: Path, seconds: float, record_property: Any
) -> None:
    # Recorded events of ended turns are not a leak, so their retention is short.
    settings = {"keep_seconds": 5.0, "http_metrics": True}
    async with (
        backends() as (fakes, target),
        gateway_process(tmp_path, fakes, target, **settings) as gateway,
    ):

        async def at_a_pace(number: int) -> None:
            await asyncio.sleep(0.1)

        fakes.generator.gate = at_a_pace
        looks, began, sent, left = Measurements(gateway.process.pid), time.monotonic(), 0, 0
        running: set[asyncio.Task[bool]] = set()
        while (now := time.monotonic() - began) < seconds:
            running.add(asyncio.create_task(disconnect_during_answer(gateway, sent)))
            sent += 1
            done = {task for task in running if task.done()}
            left, running = left + sum(task.result() for task in done), running - done
            if not looks.seconds or now - looks.seconds[-1] > LOOK_SECONDS:
                looks.look()
                # The fakes never forget, and they are not under test.
                forget(fakes)
            await asyncio.sleep(max(0.0, began + sent / STREAMS_A_SECOND - time.monotonic()))
        left += sum(await asyncio.gather(*running))
        lag = await loop_lag_p99(gateway)
    slope = looks.mib_per_hour()
    record_property("fired", left)
    record_property("streams_left_a_second", round(left / seconds, 1))
    record_property("refused", sent - left)
    record_property("resident_MiB", [round(looks.mib[0], 1), round(looks.mib[-1], 1)])
    record_property("MiB_an_hour_for_one_a_second", round(slope / (left / seconds), 2))
    record_property("open_files", [looks.files[0], looks.files[-1]])
    record_property("loop_lag_p99_ms_at_most", round(lag * 1000))
    assert looks.files[-1] <= looks.files[1] + 10
    assert slope / (left / seconds) <= MOST_MIB_AN_HOUR
    # An event loop without a free core is late. The recorded load explains such figures.
    load = os.getloadavg()[1]
    record_property("load_average", round(load, 1))
    assert lag <= MOST_LAG_SECONDS or load > len(os.sched_getaffinity(0))


def forget(fakes: Any) -> None:
    for kept in (
        fakes.session.messages,
        fakes.session.requests,
        fakes.session.finished,
        fakes.session.conversations,
    ):
        for key in list(kept)[:-100]:
            del kept[key]
    del (
        fakes.generator.requests[:],
        fakes.generator.users[:],
        fakes.guardrail.inputs[:],
        fakes.guardrail.outputs[:],
    )
