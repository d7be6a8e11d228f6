"""F2: the leader of three brokers is killed repeatedly.

Another broker takes over, and no acknowledgement was wrong.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.faults.feedback import (
    Clients,
    local_replica,
    metric_value,
    stack_on,
    wait_until,
    wait_until_sunk,
)
from tests.servers import KafkaServer, PostgresServer

KILLS, EVERY_SECONDS = 5, 10.0
UNAVAILABLE_SECONDS = 30.0


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_f02_a_killed_leader_is_replaced_and_no_event_is_lost(
    tmp_path: Path, kafka_of_three: KafkaServer, postgres: PostgresServer, record_property: Any
) -> None:
    failures = metric_value("relay_failures_total", stream="feedback")
    unavailable = []
    # A single partition, so that every event needs the same leader.
    with stack_on(tmp_path, kafka_of_three, postgres, partitions=1) as stack:
        async with (
            local_replica(stack, relay_watchdog_seconds=2) as one,
            local_replica(stack, 1, relay_watchdog_seconds=2) as two,
        ):
            clients, killed = Clients([one, two]), set()
            async with clients.sending():
                for _ in range(KILLS):
                    leader = await asyncio.to_thread(
                        kafka_of_three.leader, stack.topics["feedback"]
                    )
                    killed.add(leader.program.name)
                    await asyncio.to_thread(leader.kill)
                    relayed = relayed_events()
                    unavailable.append(
                        await wait_until(lambda n=relayed: relayed_events() > n, "another leader")
                    )
                    await asyncio.sleep(max(0.0, EVERY_SECONDS - unavailable[-1]))
                    await asyncio.to_thread(kafka_of_three.start)
            await wait_until_sunk(stack, clients.history)
        assert clients.retries == 0, "no caller may feel it"
        assert stack.problems(clients.history) == []
    assert len(killed) > 1, "the same broker led each time"
    assert metric_value("relay_failures_total", stream="feedback") > failures, "no kill was felt"
    assert max(unavailable) <= UNAVAILABLE_SECONDS
    record_property("fired", KILLS)
    record_property("acknowledged", len(clients.history.acknowledged))
    record_property("without_a_leader_seconds", [round(seconds, 1) for seconds in unavailable])


def relayed_events() -> float:
    return metric_value("relayed_total", stream="feedback")
