"""F14: Kafka deletes records before they are sunk.

The partition stops, reports the exact lost range, and never jumps; other partitions continue.
"""

import asyncio
import logging
import re
from typing import Any

import pytest
from kafka import TopicPartition

from tests.faults.feedback import (
    Clients,
    Stack,
    local_replica,
    metric_value,
    wait_until,
    wait_until_sunk,
)

EVENTS_EACH = 20


@pytest.mark.slow
async def test_f14_records_lost_to_retention_stop_their_partition_and_are_reported(
    feedback_stack: Stack, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    async with local_replica(feedback_stack) as stub:
        clients = Clients([stub])
        await clients.send(EVENTS_EACH)
        await wait_until_sunk(feedback_stack, clients.history)
    sunk = feedback_stack.committed()

    # No event is sunk meanwhile, since the next flush is far away.
    async with local_replica(feedback_stack, flush_seconds=600, flush_rows=10_000) as stub:
        clients.stubs = [stub]
        await clients.send(EVENTS_EACH)
        await wait_until(
            lambda: metric_value("relay_lag_events", stream="feedback") == 0, "the relay"
        )
    (topic_id, partition), end = max(
        feedback_stack.ends().items(), key=lambda place: place[1] - sunk.get(place[0], 0)
    )
    start = sunk.get((topic_id, partition), 0)
    assert start < end - 3
    with feedback_stack.admin() as admin:
        admin.delete_records(
            {TopicPartition(feedback_stack.topics["feedback"], partition): end - 3}
        )

    caplog.set_level(logging.ERROR)
    async with local_replica(feedback_stack):
        await wait_until(
            lambda: metric_value("stopped_partitions", stream="feedback", partition=str(partition)),
            "the stop",
        )
        assert (
            metric_value("lost_offsets", stream="feedback", partition=str(partition))
            == end - 3 - start
        )
        (told,) = {
            record.fields["why"]
            for record in caplog.records
            if record.message == "partition stopped"
        }
        assert {str(start), str(end - 3)} <= set(re.findall(r"\d+", told))
        others = {
            place: stop
            for place, stop in feedback_stack.ends().items()
            if place[1] != partition and stop
        }
        await wait_until(
            lambda: others.items() <= feedback_stack.committed().items(), "the other partitions"
        )
        await asyncio.sleep(1)
    assert feedback_stack.committed()[topic_id, partition] == start, "it jumped"
    record_property("fired", 1)
    record_property("lost_range_told", f"exact: {end - 3 - start} offsets")
