"""F54: both write-ahead logs are full of small events, and the replica starts without Kafka.

The process becomes ready within the memory of its pod and rejects further events.
"""

import asyncio
from typing import Any

import grpc
import pytest

from services.chassis.errors import from_rpc
from tests.faults.feedback import ReplicaProcess, Stack, record
from tests.services.feedback.full_spool import fill
from tests.services.feedback.samples import correction

MIB = 1 << 20
# Limit of the chart for each service (`serviceDefaults.resources`).
POD_BYTES = 512 * MIB


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_f54_a_replica_with_full_logs_starts_within_its_memory(
    feedback_stack: Stack, record_property: Any
) -> None:
    replica, empty = ReplicaProcess(feedback_stack), ReplicaProcess(feedback_stack, 1)
    async with empty.running():
        base = empty.peak_resident_bytes()
    events = 0
    for stream in ("feedback", "turns"):
        (replica.spool / stream).parent.mkdir(exist_ok=True)
        events += await asyncio.to_thread(fill, replica.spool / stream)
    await asyncio.to_thread(feedback_stack.kafka.kill)
    async with replica.running(relay_watchdog_seconds=2) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await record(stub, correction("one more", "x" * 8_192, message="m"))
        assert from_rpc(caught.value, "feedback").reason == "FEEDBACK_SPOOL_FULL"
        peak = replica.peak_resident_bytes()
        waiting = replica.metric_value("spooled_bytes")
    assert events > 1_200_000
    assert waiting > 2 * 255 * MIB
    assert peak <= POD_BYTES
    record_property("fired", 1)
    record_property("events", events)
    record_property("peak_MiB", round(peak / MIB))
    record_property("peak_MiB_with_empty_logs", round(base / MIB))
