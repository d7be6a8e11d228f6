"""F2: of three brokers the one that leads is killed, again and again. Another leads after it, and
no ack was wrong.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.faults.feedback import Clients, counted, replica_here, settled, stack_on, until
from tests.servers import KafkaServer, PostgresServer

KILLS, EVERY_SECONDS = 5, 10.0
UNAVAILABLE_SECONDS = 30.0


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_f02_a_leader_that_is_killed_is_followed_by_another_and_nothing_is_lost(
    tmp_path: Path, kafka_of_three: KafkaServer, postgres: PostgresServer, record_property: Any
) -> None:
    failures = counted("relay_failures_total", stream="feedback")
    unavailable = []
    # One partition, so that every event needs the one leader.
    with stack_on(tmp_path, kafka_of_three, postgres, partitions=1) as stack:
        async with (
            replica_here(stack, relay_watchdog_seconds=2) as one,
            replica_here(stack, 1, relay_watchdog_seconds=2) as two,
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
                        await until(lambda n=relayed: relayed_events() > n, "another leader")
                    )
                    await asyncio.sleep(max(0.0, EVERY_SECONDS - unavailable[-1]))
                    await asyncio.to_thread(kafka_of_three.start)
            await settled(stack, clients.history)
        assert clients.retries == 0, "no caller may feel it"
        assert stack.problems(clients.history) == []
    assert len(killed) > 1, "the same broker led each time"
    assert counted("relay_failures_total", stream="feedback") > failures, "no kill was felt"
    assert max(unavailable) <= UNAVAILABLE_SECONDS
    record_property("fired", KILLS)
    record_property("acknowledged", len(clients.history.acknowledged))
    record_property("without_a_leader_seconds", [round(seconds, 1) for seconds in unavailable])


def relayed_events() -> float:
    return counted("relayed_total", stream="feedback")
