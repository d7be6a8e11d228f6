"""F17: consumers join and leave every three seconds.

All partitions move each time, and no offset is lost or sunk twice.
"""

import asyncio
import time
from typing import Any

import pytest

from tests.faults.feedback import (
    Clients,
    Stack,
    local_replica,
    metric_value,
    wait_until,
    wait_until_sunk,
)

STAY_SECONDS = 3.0
CALM_SECONDS = 10.0


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [120])
async def test_f17_frequent_rebalances_lose_no_event(
    feedback_stack: Stack, seconds: float, record_property: Any
) -> None:
    moves, watching = [0.0], asyncio.Event()
    async with local_replica(feedback_stack) as steady:
        clients = Clients([steady])
        async with clients.sending():
            await wait_until(lambda: metric_value("rows_total", stream="feedback") > 0, "the sink")
            calm = await rows_a_second(CALM_SECONDS)
            rows, began = metric_value("rows_total", stream="feedback"), time.monotonic()
            watcher = asyncio.ensure_future(watch(moves, watching))
            while time.monotonic() - began < seconds:
                async with local_replica(feedback_stack, 1, drain_seconds=0.1):
                    await asyncio.sleep(STAY_SECONDS)
                await asyncio.sleep(STAY_SECONDS)
            watching.set()
            await watcher
            moving = (metric_value("rows_total", stream="feedback") - rows) / (
                time.monotonic() - began
            )
        await wait_until_sunk(feedback_stack, clients.history)
    assert len(moves) > 2, "no partition moved"
    assert clients.retries == 0
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", len(moves) - 1)
    record_property("rows_a_second_calm", round(calm))
    record_property("rows_a_second_meanwhile", round(moving))


async def watch(moves: list[float], over: asyncio.Event) -> None:
    """Record each change of the number of assigned partitions."""
    while not over.is_set():
        if (held := metric_value("partitions", stream="feedback")) != moves[-1]:
            moves.append(held)
        await asyncio.sleep(0.05)


async def rows_a_second(seconds: float) -> float:
    rows = metric_value("rows_total", stream="feedback")
    await asyncio.sleep(seconds)
    return (metric_value("rows_total", stream="feedback") - rows) / seconds
