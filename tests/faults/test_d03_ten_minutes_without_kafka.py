"""D3: Kafka is unavailable for ten minutes at fifty events per second.

All events are acknowledged from the spool and reach Kafka within a minute.
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
    ReplicaProcess,
    Stack,
    wait_until,
    wait_until_sunk,
)

EVENTS_A_SECOND = 50
DRAIN_SECONDS = 60.0
# A thumb that waits for Kafka is held in memory until then, so that it is visible: 1.2 kB.
BYTES_AN_EVENT, GROWTH_BYTES = 1_600, 4 << 20
MIB = 1 << 20


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("seconds", [600])
async def test_d03_ten_minutes_without_kafka_do_not_affect_callers(
    feedback_stack: Stack, seconds: float, record_property: Any
) -> None:
    replica = ReplicaProcess(feedback_stack)
    async with replica.running(relay_watchdog_seconds=WATCHDOG_SECONDS) as stub:
        clients = Clients([stub], pause_seconds=CONVERSATIONS / EVENTS_A_SECOND)
        await clients.send(60)
        await wait_until_sunk(feedback_stack, clients.history)
        with_kafka = clients.ack_percentile(0.5)
        before, acknowledged = replica.peak_resident_bytes(), len(clients.history.acknowledged)
        await asyncio.to_thread(feedback_stack.kafka.kill)
        clients.ack_seconds.clear()
        began = time.monotonic()
        async with clients.sending():
            await asyncio.sleep(seconds)
        rate = (len(clients.history.acknowledged) - acknowledged) / (time.monotonic() - began)
        waiting = replica.metric_value("relay_lag_events")
        failures = replica.metric_value("relay_failures_total")
        memory_growth = (replica.peak_resident_bytes() - before) / MIB
        await asyncio.to_thread(feedback_stack.kafka.start)
        drained = await wait_until(
            lambda: replica.metric_value("relay_lag_events", stream="feedback") == 0,
            "the spool to drain",
        )
        sunk = await wait_until_sunk(feedback_stack, clients.history)
    assert clients.retries == 0
    assert waiting > 0
    assert failures > 0
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", int(failures))
    meanwhile = len(clients.history.acknowledged) - acknowledged
    record_property("acknowledged_meanwhile", meanwhile)
    record_property("acks_a_second", round(rate, 1))
    record_property("ack_p50_ms_before", round(with_kafka * 1000, 1))
    record_property("ack_p50_ms", round(clients.ack_percentile(0.5) * 1000, 1))
    record_property("ack_p99_ms", round(clients.ack_percentile(0.99) * 1000, 1))
    record_property("memory_grown_MiB", round(memory_growth, 1))
    record_property("drained_seconds", round(drained, 1))
    record_property("in_Parquet_after_seconds", round(drained + sunk, 1))
    assert clients.ack_percentile(0.5) < SPOOL_ACK_SECONDS
    assert memory_growth * MIB <= GROWTH_BYTES + BYTES_AN_EVENT * meanwhile
    assert drained <= DRAIN_SECONDS
