"""F1: the broker is killed five times in the middle of writes. Nothing acknowledged is lost, twice or out of order."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.feedback import Clients, counted, replica_here, settled, stack_on, until
from tests.servers import KafkaServer, PostgresServer

KILLS = 5
RECOVERY_SECONDS = 30.0


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_f01_a_broker_that_is_killed_loses_nothing(
    tmp_path: Path, kafka: KafkaServer, postgres: PostgresServer
) -> None:
    stack = stack_on(tmp_path, kafka, postgres)
    failures, builds = counted("relay_failures_total"), counted("producer_builds_total")
    async with (
        replica_here(stack, relay_watchdog_seconds=2) as one,
        replica_here(stack, 1, relay_watchdog_seconds=2) as two,
    ):
        clients = Clients([one, two])
        async with clients.sending():
            for _ in range(KILLS):
                await asyncio.sleep(1)
                kafka.kill()
                await asyncio.sleep(1)
                await asyncio.to_thread(kafka.start)
                relayed = counted("relayed_total", stream="feedback")
                took = await until(
                    lambda: counted("relayed_total", stream="feedback") > relayed, "an ack of the broker"
                )
                assert took <= RECOVERY_SECONDS
        await settled(stack, clients.history)
        assert counted("relay_failures_total") > failures, "no kill was felt"
        assert counted("producer_builds_total") > builds + 2
    assert stack.problems(clients.history) == []
