"""F13: the topic is deleted and made again: its offsets begin at 0, and nothing is silently taken
for known or overwritten.
"""

import asyncio
from typing import Any

import pytest
from kafka.errors import UnknownTopicOrPartitionError

from tests.faults.feedback import Clients, Stack, replica_here, settled


@pytest.mark.long
@pytest.mark.slow
async def test_f13_a_topic_made_anew_is_another_log(
    feedback_stack: Stack, record_property: Any
) -> None:
    async with (
        replica_here(feedback_stack, relay_watchdog_seconds=2) as one,
        replica_here(feedback_stack, 1) as two,
    ):
        clients = Clients([one, two])
        await clients.send(10)
        await settled(feedback_stack, clients.history)
        before = feedback_stack.ends()
        feedback_stack.lost_ends = before
        await asyncio.to_thread(make_anew, feedback_stack)
        await clients.send(10)
        await settled(feedback_stack, clients.history)
    after = feedback_stack.ends()
    assert {topic_id for topic_id, _ in after} > {topic_id for topic_id, _ in before}, (
        "it was the same topic"
    )
    assert len(feedback_stack.rows()) == 2 * 10 * len(clients.history.sent)
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", 1)
    record_property("rows", len(feedback_stack.rows()))


def make_anew(feedback_stack: Stack) -> None:
    """Delete it, and make it as it was once it is gone."""
    name = feedback_stack.topics["feedback"]
    with feedback_stack.admin() as admin:
        admin.delete_topics([name])
        while True:
            (found,) = admin.describe_topics([name])
            if found["error_code"] == UnknownTopicOrPartitionError.errno:
                break
        admin.create_topics({name: {"num_partitions": 3, "replication_factor": 1}})
        admin.wait_for_topics([name])
