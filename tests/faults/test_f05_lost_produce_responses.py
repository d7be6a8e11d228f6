"""F5: a tenth of Kafka's acknowledgements is lost.

The topic then contains duplicates, and readers find each event once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.simulate.faults.kafka import KafkaProxy
from infra.simulate.faults.proxy import Chance
from tests.faults.feedback import (
    Clients,
    Stack,
    local_replica,
    stack_on,
    wait_until,
    wait_until_sunk,
)
from tests.faults.proxied_kafka import behind_proxy, port_of
from tests.servers import KafkaServer, PostgresServer

DROPS = 100


@pytest.fixture
def proxied(tmp_path: Path, postgres: PostgresServer) -> Iterator[tuple[Stack, KafkaProxy]]:
    """Yield a stack on its own broker, with a proxy in between."""
    server = KafkaServer(tmp_path / "kafka", brokers=1)
    proxy = KafkaProxy(port_of(server))
    with (
        behind_proxy(server, proxy, tmp_path / "kafka"),
        stack_on(tmp_path, server, postgres) as stack,
    ):
        yield stack, proxy


# `make test` covers lost acknowledgements in tests/services/feedback/test_replicas.py, and with the
# killed broker of F1.
@pytest.mark.long
@pytest.mark.slow
async def test_f05_lost_acknowledgements_duplicate_records_but_not_rows(
    proxied: tuple[Stack, KafkaProxy], record_property: Any
) -> None:
    stack, proxy = proxied
    async with local_replica(stack) as one, local_replica(stack, 1) as two:
        clients = Clients([one, two])
        async with clients.sending():
            proxy.chance = Chance(0.1, seed=5)
            await wait_until(lambda: proxy.counts["dropped"] >= DROPS, f"{DROPS} lost acks")
            proxy.chance = Chance(0.0)
        await wait_until_sunk(stack, clients.history)
    assert stack.problems(clients.history) == []
    acknowledged, records = len(clients.history.acknowledged), sum(stack.ends().values())
    assert records > acknowledged, "a lost ack left nothing twice"
    record_property("fired", proxy.counts["dropped"])
    record_property("produce_responses", proxy.counts["produce_responses"])
    record_property("acknowledged", acknowledged)
    record_property("twice_in_the_topic", records - acknowledged)
