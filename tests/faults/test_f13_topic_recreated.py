"""F13: the topic is deleted and recreated, and its offsets start at 0.

No event is silently taken for known or overwritten.
"""

import asyncio
from typing import Any

import pytest
from kafka.errors import UnknownTopicOrPartitionError

from tests.faults.feedback import Clients, Stack, local_replica, wait_until_sunk


@pytest.mark.long
@pytest.mark.slow
async def test_f13_a_recreated_topic_is_another_log(
    feedback_stack: Stack, record_property: Any
) -> None:
    async with (
        local_replica(feedback_stack, relay_watchdog_seconds=2) as one,
        local_replica(feedback_stack, 1) as two,
    ):
        clients = Clients([one, two])
        await clients.send(10)
        await wait_until_sunk(feedback_stack, clients.history)
        before = feedback_stack.ends()
        feedback_stack.lost_ends = before
        await asyncio.to_thread(recreate_topic, feedback_stack)
        await clients.send(10)
        await wait_until_sunk(feedback_stack, clients.history)
    after = feedback_stack.ends()
    assert {topic_id for topic_id, _ in after} > {topic_id for topic_id, _ in before}, (
        "it was the same topic"
    )
    assert len(feedback_stack.rows()) == 2 * 10 * len(clients.history.sent)
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", 1)
    record_property("rows", len(feedback_stack.rows()))


def recreate_topic(feedback_stack: Stack) -> None:
    """Delete the topic and recreate it with the same settings."""
    name = feedback_stack.topics["feedback"]
    with feedback_stack.admin() as admin:
        admin.delete_topics([name])
        while True:
            (found,) = admin.describe_topics([name])
            if found["error_code"] == UnknownTopicOrPartitionError.errno:
                break
        admin.create_topics({name: {"num_partitions": 3, "replication_factor": 1}})
        admin.wait_for_topics([name])
