"""F59: the topic allows unclean elections, against the settings, and its leader is killed.

Such an election drops acknowledged records. The relay therefore keeps all events in the write-ahead
log until the topic is repaired.
"""

import asyncio
from typing import Any

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from tests.faults.feedback import (
    Clients,
    Stack,
    local_replica,
    metric_value,
    wait_until,
    wait_until_sunk,
)


def allow_unclean_elections(stack: Stack, value: str) -> None:
    changed = {"unclean.leader.election.enable": value}
    resource = ConfigResource(ConfigResourceType.TOPIC, stack.topics["feedback"], changed)
    with stack.admin() as admin:
        admin.alter_configs([resource], incremental=True)


async def relay_refuses() -> None:
    """Wait until the relay has failed once more."""
    failures = metric_value("relay_failures_total", stream="feedback")
    await wait_until(
        lambda: metric_value("relay_failures_total", stream="feedback") > failures, "a refusal"
    )


@pytest.mark.long
async def test_f59_a_weak_topic_gets_no_event_before_its_repair(
    feedback_stack: Stack, record_property: Any
) -> None:
    await asyncio.to_thread(allow_unclean_elections, feedback_stack, "true")
    async with local_replica(feedback_stack, relay_watchdog_seconds=2) as stub:
        clients = Clients([stub])
        await clients.send(3)
        await relay_refuses()
        assert sum((await asyncio.to_thread(feedback_stack.ends)).values()) == 0
        await asyncio.to_thread(feedback_stack.kafka.kill)
        await clients.send(1)
        await asyncio.to_thread(feedback_stack.kafka.start)
        await relay_refuses()
        assert sum((await asyncio.to_thread(feedback_stack.ends)).values()) == 0
        kept = len(clients.history.acknowledged)
        await asyncio.to_thread(allow_unclean_elections, feedback_stack, "false")
        await wait_until_sunk(feedback_stack, clients.history)
    assert feedback_stack.problems(clients.history) == []
    assert {str(row["event_id"]) for row in feedback_stack.rows()} == clients.history.acknowledged
    record_property("fired", 1)
    record_property("events_kept_in_the_log", kept)
