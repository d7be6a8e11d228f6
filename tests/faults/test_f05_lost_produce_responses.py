"""F5, the half that needs no relay: a tenth of the ProduceResponses is lost, so Kafka's log has records twice and misses none.

What makes one row of two such records is the event id, in the sink; the relay's own F5 stands on this broker and proxy.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer

from infra.faults.chance import Chance
from infra.faults.kafka import KafkaProxy
from tests.faults.proxied_kafka import behind, port_of
from tests.servers import KafkaServer

RECORDS = 2_000


@pytest.mark.faults
def test_f05_lost_produce_responses_make_duplicates_and_lose_nothing(tmp_path: Path, record_property: Any) -> None:
    server = KafkaServer(tmp_path, brokers=1)
    proxy = KafkaProxy(port_of(server))
    with behind(server, proxy, tmp_path) as bootstrap:
        topic = server.topic()
        proxy.chance = Chance(0.1, seed=5)
        # As the relay is told to: not idempotent, one request in flight.
        producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=False,
            max_in_flight_requests_per_connection=1,
            retries=100,
            batch_size=512,
            reconnect_backoff_ms=10,
        )
        sent = [producer.send(topic, f"{number:06d}".encode(), partition=0) for number in range(RECORDS)]
        for one in sent:
            one.get(timeout=120)
        producer.close()
        proxy.chance = Chance(0.0)
        found = consumed(bootstrap, topic)
    times = Counter(found)
    duplicates = len(found) - len(times)
    record_property("fired", proxy.counts["dropped"])
    record_property("responses", proxy.counts["produce_responses"])
    record_property("records", RECORDS)
    record_property("duplicates_in_the_log", duplicates)
    assert proxy.counts["dropped"] > 3
    assert sorted(times) == [f"{number:06d}".encode() for number in range(RECORDS)]
    assert duplicates > 0
    assert list(dict.fromkeys(found)) == sorted(times), "the first of each stands in order"


def consumed(bootstrap: str, topic: str) -> list[bytes]:
    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=5_000
    )
    try:
        return [message.value for message in consumer]
    finally:
        consumer.close()
