"""F4: Kafka is down when the service starts. It is ready all the same, and acknowledges from the
spool.
"""

import asyncio
import time
from typing import Any

import pytest
from thumbwheel.feedback.v1 import feedback_pb2

from tests.faults.feedback import Clients, Stack, counted, record, replica_here, settled
from tests.services.feedback.samples import thumb

# An acknowledgement that waited for a broker would take seconds; a busy machine took 58 ms for one
# from the spool.
ACK_SECONDS, LAG_SECONDS = 0.5, 30.0


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [5, 60])
async def test_f04_without_a_broker_the_service_starts_and_acknowledges(
    feedback_stack: Stack, seconds: int, record_property: Any
) -> None:
    await asyncio.to_thread(feedback_stack.kafka.kill)
    relayed = counted("relayed_total", stream="feedback")
    async with replica_here(feedback_stack, relay_watchdog_seconds=2) as stub:
        clients = Clients([stub])
        assert (
            await record(stub, thumb("first", message="m"))
        ).durability == feedback_pb2.DURABILITY_SPOOL
        clients.history.sent["m"] = [thumb("first", message="m").event_id]
        async with clients.sending():
            await asyncio.sleep(seconds)
        assert counted("relayed_total", stream="feedback") == relayed, (
            "there was a broker after all"
        )
        await lag_is_shown()
        assert clients.ack_percentile(0.5) <= ACK_SECONDS
        await asyncio.to_thread(feedback_stack.kafka.start)
        drained = await settled(feedback_stack, clients.history)
        assert counted("relay_lag_events", stream="feedback") == 0
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", 1)
    record_property("away_seconds", seconds)
    record_property("ack_p50_ms", round(clients.ack_percentile(0.5) * 1000, 1))
    record_property("ack_p99_ms", round(clients.ack_percentile(0.99) * 1000, 1))
    record_property("drained_seconds", round(drained, 1))


async def lag_is_shown() -> None:
    """The relay measures between two attempts, and one may wait as long as its watchdog lets it."""
    end = time.monotonic() + LAG_SECONDS
    while not counted("relay_lag_events", stream="feedback"):
        assert time.monotonic() < end, "nothing is shown to wait"
        await asyncio.sleep(0.1)
