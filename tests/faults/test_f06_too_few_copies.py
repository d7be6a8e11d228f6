"""F6: two of three brokers are down, so no write has enough replicas.

All acknowledgements come from the spool, and Kafka gets the events later.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.feedback.v1 import feedback_pb2

from tests.faults.feedback import (
    Clients,
    local_replica,
    metric_value,
    stack_on,
    wait_until,
    wait_until_sunk,
)
from tests.servers import KafkaServer, PostgresServer

AWAY_SECONDS = 10.0


@pytest.mark.long
async def test_f06_without_enough_replicas_no_write_counts(
    tmp_path: Path, kafka_of_three: KafkaServer, postgres: PostgresServer, record_property: Any
) -> None:
    with stack_on(tmp_path, kafka_of_three, postgres) as stack:
        async with local_replica(stack, relay_watchdog_seconds=2) as stub:
            clients = Clients([stub])
            await clients.send(5)
            await wait_until_sunk(stack, clients.history)
            failures = metric_value("relay_failures_total", stream="feedback")
            await asyncio.to_thread(kill_two, kafka_of_three)
            relayed, acknowledged = relayed_events(), len(clients.history.acknowledged)
            async with clients.sending():
                await asyncio.sleep(AWAY_SECONDS)
                await wait_until(
                    lambda: metric_value("relay_failures_total", stream="feedback") > failures,
                    "a refused batch",
                )
            alone = len(clients.history.acknowledged) - acknowledged
            assert relayed_events() == relayed, "a write with one copy was taken for durable"
            assert alone > 0
            assert clients.durabilities == {feedback_pb2.DURABILITY_SPOOL}
            await asyncio.to_thread(kafka_of_three.start)
            drained = await wait_until_sunk(stack, clients.history)
        assert clients.retries == 0
        assert stack.problems(clients.history) == []
    record_property(
        "fired", int(metric_value("relay_failures_total", stream="feedback") - failures)
    )
    record_property("acknowledged_meanwhile", alone)
    record_property("spool_share", 1.0)
    record_property("drained_seconds", round(drained, 1))


def kill_two(kafka: KafkaServer) -> None:
    for broker in kafka.processes[1:]:
        broker.kill()


def relayed_events() -> float:
    return metric_value("relayed_total", stream="feedback")
