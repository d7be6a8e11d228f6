"""F1: the only broker is killed, again and again, in the middle of writes."""

import asyncio
from typing import Any

import pytest

from tests.faults.feedback import Clients, Stack, counted, replica_here, settled, until

RECOVERY_SECONDS = 30.0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(5, marks=pytest.mark.long)])
async def test_f01_a_broker_that_is_killed_loses_nothing(
    feedback_stack: Stack, kills: int, record_property: Any
) -> None:
    recovered = []
    failures, builds = counted("relay_failures_total"), counted("producer_builds_total")
    async with (
        replica_here(feedback_stack, relay_watchdog_seconds=2) as one,
        replica_here(feedback_stack, 1, relay_watchdog_seconds=2) as two,
    ):
        clients = Clients([one, two])
        async with clients.sending():
            for _ in range(kills):
                await asyncio.sleep(1)
                await asyncio.to_thread(feedback_stack.kafka.kill)
                await asyncio.sleep(1)
                await asyncio.to_thread(feedback_stack.kafka.start)
                recovered.append(round(await an_ack_of_the_broker(), 1))
                assert recovered[-1] <= RECOVERY_SECONDS
        await settled(feedback_stack, clients.history)
        assert counted("relay_failures_total") >= failures + kills, "a kill was not felt"
        assert counted("producer_builds_total") >= builds + kills
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", kills)
    record_property("acknowledged", len(clients.history.acknowledged))
    record_property("recovered_seconds", recovered)


async def an_ack_of_the_broker() -> float:
    """How long it took."""
    relayed = counted("relayed_total", stream="feedback")
    return await until(
        lambda: counted("relayed_total", stream="feedback") > relayed, "an ack of the broker"
    )
