"""F3: the broker is frozen and thawed.

A standard producer hangs permanently after two minutes of this fault.
"""

import asyncio
import time
from typing import Any

import pytest

from tests.faults.feedback import (
    CONVERSATIONS,
    SPOOL_ACK_SECONDS,
    WATCHDOG_SECONDS,
    Clients,
    Stack,
    local_replica,
    metric_value,
    wait_until,
    wait_until_sunk,
)

THAW_SECONDS = 10.0


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [5, 40, 150])
async def test_f03_a_frozen_broker_is_used_again_soon_after_the_thaw(
    feedback_stack: Stack, seconds: int, record_property: Any
) -> None:
    failures, before = (
        metric_value(name, stream="feedback") for name in ("relay_failures_total", "relayed_total")
    )
    async with local_replica(feedback_stack, relay_watchdog_seconds=WATCHDOG_SECONDS) as stub:
        clients = Clients([stub])
        async with clients.sending():
            await wait_until(
                lambda: metric_value("relayed_total", stream="feedback") > before, "the relay"
            )
            feedback_stack.kafka.pause()
            acknowledged = len(clients.history.acknowledged)
            await asyncio.sleep(seconds)
            meanwhile = len(clients.history.acknowledged) - acknowledged
            relayed, thaw = metric_value("relayed_total", stream="feedback"), time.monotonic()
            feedback_stack.kafka.resume()
            await wait_until(
                lambda: metric_value("relayed_total", stream="feedback") > relayed,
                "an ack after the thaw",
            )
            recovered = time.monotonic() - thaw
            assert recovered <= THAW_SECONDS
        assert metric_value("relay_failures_total", stream="feedback") > failures, (
            "the freeze was not felt"
        )
        await wait_until_sunk(feedback_stack, clients.history)
    record_property("fired", 1)
    record_property("frozen_seconds", seconds)
    record_property("acknowledged_meanwhile", meanwhile)
    record_property("ack_p50_ms", round(clients.ack_percentile(0.5) * 1000, 1))
    record_property("ack_p99_ms", round(clients.ack_percentile(0.99) * 1000, 1))
    record_property("from_thaw_to_Kafkas_ack_seconds", round(recovered, 1))
    # Each conversation waits for an acknowledgement before its next event.
    assert meanwhile > 2 * CONVERSATIONS
    assert clients.ack_percentile(0.5) < SPOOL_ACK_SECONDS
    assert feedback_stack.problems(clients.history) == []
