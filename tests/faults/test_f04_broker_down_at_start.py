"""F4: Kafka is down when the service starts.

The service becomes ready and acknowledges from the spool.
"""

import asyncio
import time
from typing import Any

import pytest
from thumbwheel.feedback.v1 import feedback_pb2

from tests.faults.feedback import (
    SPOOL_ACK_SECONDS,
    WATCHDOG_SECONDS,
    Clients,
    Stack,
    local_replica,
    metric_value,
    record,
    wait_until_sunk,
)
from tests.services.feedback.samples import thumb

LAG_SECONDS = 30.0


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [5, 60])
async def test_f04_without_a_broker_the_service_starts_and_acknowledges(
    feedback_stack: Stack, seconds: int, record_property: Any
) -> None:
    await asyncio.to_thread(feedback_stack.kafka.kill)
    relayed = metric_value("relayed_total", stream="feedback")
    async with local_replica(feedback_stack, relay_watchdog_seconds=WATCHDOG_SECONDS) as stub:
        clients = Clients([stub])
        assert (
            await record(stub, thumb("first", message="m"))
        ).durability == feedback_pb2.DURABILITY_SPOOL
        clients.history.sent["m"] = [thumb("first", message="m").event_id]
        async with clients.sending():
            await asyncio.sleep(seconds)
        assert metric_value("relayed_total", stream="feedback") == relayed, (
            "there was a broker after all"
        )
        await wait_for_lag_metric()
        assert clients.ack_percentile(0.5) < SPOOL_ACK_SECONDS
        await asyncio.to_thread(feedback_stack.kafka.start)
        drained = await wait_until_sunk(feedback_stack, clients.history)
        assert metric_value("relay_lag_events", stream="feedback") == 0
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", 1)
    record_property("away_seconds", seconds)
    record_property("ack_p50_ms", round(clients.ack_percentile(0.5) * 1000, 1))
    record_property("ack_p99_ms", round(clients.ack_percentile(0.99) * 1000, 1))
    record_property("drained_seconds", round(drained, 1))


async def wait_for_lag_metric() -> None:
    """Wait for a positive lag metric.

    The relay measures between two attempts, and an attempt may take as long as the watchdog.
    """
    end = time.monotonic() + LAG_SECONDS
    while not metric_value("relay_lag_events", stream="feedback"):
        assert time.monotonic() < end, "nothing is shown to wait"
        await asyncio.sleep(0.1)
