"""F13: the topic is deleted and made again: its offsets begin at 0, and nothing is silently taken for known or overwritten."""

import asyncio

import pytest
from kafka.errors import UnknownTopicOrPartitionError

from tests.faults.feedback import Clients, Stack, replica_here, settled


@pytest.mark.slow
async def test_f13_a_topic_made_anew_is_another_log(stack: Stack) -> None:
    async with replica_here(stack, relay_watchdog_seconds=2) as one, replica_here(stack, 1) as two:
        clients = Clients([one, two])
        await clients.send(10)
        await settled(stack, clients.history)
        before = stack.ends()
        stack.lost_ends = before
        await asyncio.to_thread(make_anew, stack)
        await clients.send(10)
        await settled(stack, clients.history)
    after = stack.ends()
    assert {topic_id for topic_id, _ in after} > {topic_id for topic_id, _ in before}, "it was the same topic"
    assert len(stack.rows()) == 2 * 10 * len(clients.history.sent)
    assert stack.problems(clients.history) == []


def make_anew(stack: Stack) -> None:
    """Delete it, and make it as it was once it is gone."""
    name = stack.topics["feedback"]
    with stack.admin() as admin:
        admin.delete_topics([name])
        while True:
            (found,) = admin.describe_topics([name])
            if found["error_code"] == UnknownTopicOrPartitionError.errno:
                break
        admin.create_topics({name: {"num_partitions": 3, "replication_factor": 1}})
        admin.wait_for_topics([name])
