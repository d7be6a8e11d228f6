"""F25: the clocks of three replicas are two days ahead, an hour behind, and jumping.

No event is lost, and the order is independent of the clocks.
"""

import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.faults.broken_replica import SKEWED
from tests.faults.feedback import Clients, ReplicaProcess, Stack, wait_until_sunk

AHEAD, BEHIND, JUMPING = 2 * 86_400, -3_600, 0
HALF_AN_HOUR_US = 1_800_000_000


@pytest.mark.long
@pytest.mark.parametrize("events", [100])
async def test_f25_replicas_with_wrong_clocks_lose_nothing_and_keep_the_order(
    feedback_stack: Stack, events: int, record_property: Any
) -> None:
    async with AsyncExitStack() as running:
        replicas = [
            ReplicaProcess(feedback_stack, number, broken_at=(SKEWED, skew))
            for number, skew in enumerate((AHEAD, BEHIND, JUMPING))
        ]
        clients = Clients(
            [await running.enter_async_context(replica.running()) for replica in replicas]
        )
        await clients.send(events)
        await wait_until_sunk(feedback_stack, clients.history)
    assert clients.retries == 0
    assert feedback_stack.problems(clients.history) == []
    now_us = time.time_ns() // 1_000
    wrong = [
        s
        for s in feedback_stack.ledger.segments("feedback")
        if abs(s.commit_us - now_us) > HALF_AN_HOUR_US
    ]
    assert wrong, "all clocks were right"
    # Retention in the topic uses the broker's clock.
    assert all(abs(row["ingest_time"] - now_us) < HALF_AN_HOUR_US for row in feedback_stack.rows())
    record_property("fired", len(wrong))
    record_property("acknowledged", len(clients.history.acknowledged))
