"""F14: Kafka deletes what was not sunk yet. The partition stops, says exactly what is lost, and
never jumps; the others go on.
"""

import asyncio
import logging
import re
from typing import Any

import pytest
from kafka import TopicPartition

from tests.faults.feedback import Clients, Stack, counted, replica_here, settled, until

EVENTS_EACH = 20


@pytest.mark.slow
async def test_f14_what_retention_took_stops_its_partition_with_the_lost_range_exact(
    feedback_stack: Stack, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    async with replica_here(feedback_stack) as stub:
        clients = Clients([stub])
        await clients.send(EVENTS_EACH)
        await settled(feedback_stack, clients.history)
    sunk = feedback_stack.committed()

    # Nothing is sunk while the events come and go: the flush is a long time off.
    async with replica_here(feedback_stack, flush_seconds=600, flush_rows=10_000) as stub:
        clients.stubs = [stub]
        await clients.send(EVENTS_EACH)
        await until(lambda: counted("relay_lag_events", stream="feedback") == 0, "the relay")
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
    async with replica_here(feedback_stack):
        await until(
            lambda: counted("stopped_partitions", stream="feedback", partition=str(partition)),
            "the stop",
        )
        assert (
            counted("lost_offsets", stream="feedback", partition=str(partition)) == end - 3 - start
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
        await until(
            lambda: others.items() <= feedback_stack.committed().items(), "the other partitions"
        )
        await asyncio.sleep(1)
    assert feedback_stack.committed()[topic_id, partition] == start, "it jumped"
    record_property("fired", 1)
    record_property("lost_range_told", f"exact: {end - 3 - start} offsets")
