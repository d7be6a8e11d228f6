"""F5: a tenth of Kafka's acks is lost on the way: the topic has records twice, and readers find
each once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.faults.chance import Chance
from infra.faults.kafka import KafkaProxy
from tests.faults.feedback import Clients, Stack, replica_here, settled, stack_on, until
from tests.faults.proxied_kafka import behind, port_of
from tests.servers import KafkaServer, PostgresServer

DROPS = 100


@pytest.fixture
def proxied(tmp_path: Path, postgres: PostgresServer) -> Iterator[tuple[Stack, KafkaProxy]]:
    """A stack on a broker of its own, with the proxy between."""
    server = KafkaServer(tmp_path / "kafka", brokers=1)
    proxy = KafkaProxy(port_of(server))
    with behind(server, proxy, tmp_path / "kafka"), stack_on(tmp_path, server, postgres) as stack:
        yield stack, proxy


# In `make test` acks are lost in tests/services/feedback/test_replicas.py, and by the broker that
# F1 kills.
@pytest.mark.long
@pytest.mark.slow
async def test_f05_lost_acks_of_kafka_make_records_twice_and_rows_once(
    proxied: tuple[Stack, KafkaProxy], record_property: Any
) -> None:
    stack, proxy = proxied
    async with replica_here(stack) as one, replica_here(stack, 1) as two:
        clients = Clients([one, two])
        async with clients.sending():
            proxy.chance = Chance(0.1, seed=5)
            await until(lambda: proxy.counts["dropped"] >= DROPS, f"{DROPS} lost acks")
            proxy.chance = Chance(0.0)
        await settled(stack, clients.history)
    assert stack.problems(clients.history) == []
    acknowledged, records = len(clients.history.acknowledged), sum(stack.ends().values())
    assert records > acknowledged, "a lost ack left nothing twice"
    record_property("fired", proxy.counts["dropped"])
    record_property("produce_responses", proxy.counts["produce_responses"])
    record_property("acknowledged", acknowledged)
    record_property("twice_in_the_topic", records - acknowledged)
