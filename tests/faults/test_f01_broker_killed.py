"""F1: the only broker is killed repeatedly during writes."""

import asyncio
from typing import Any

import pytest

from tests.faults.feedback import (
    Clients,
    Stack,
    local_replica,
    metric_value,
    wait_until,
    wait_until_sunk,
)

RECOVERY_SECONDS = 30.0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
async def test_f01_a_killed_broker_loses_no_event(
    feedback_stack: Stack, kills: int, record_property: Any
) -> None:
    recovered = []
    failures, builds = metric_value("relay_failures_total"), metric_value("producer_builds_total")
    async with (
        local_replica(feedback_stack, relay_watchdog_seconds=2) as one,
        local_replica(feedback_stack, 1, relay_watchdog_seconds=2) as two,
    ):
        clients = Clients([one, two])
        async with clients.sending():
            for _ in range(kills):
                await asyncio.sleep(1)
                await asyncio.to_thread(feedback_stack.kafka.kill)
                await asyncio.sleep(1)
                await asyncio.to_thread(feedback_stack.kafka.start)
                recovered.append(round(await wait_for_broker_ack(), 1))
                assert recovered[-1] <= RECOVERY_SECONDS
        await wait_until_sunk(feedback_stack, clients.history)
        assert metric_value("relay_failures_total") >= failures + kills, "a kill was not felt"
        assert metric_value("producer_builds_total") >= builds + kills
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", kills)
    record_property("acknowledged", len(clients.history.acknowledged))
    record_property("recovered_seconds", recovered)


async def wait_for_broker_ack() -> float:
    """Wait for an acknowledgement by the broker and return the duration in seconds."""
    relayed = metric_value("relayed_total", stream="feedback")
    return await wait_until(
        lambda: metric_value("relayed_total", stream="feedback") > relayed, "an ack of the broker"
    )
