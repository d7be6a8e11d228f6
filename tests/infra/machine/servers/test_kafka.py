"""Kafka with a single broker and with three keeps acknowledged messages."""

import contextlib

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaTimeoutError

from tests.servers import KafkaServer


def produce(server: KafkaServer, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(
        bootstrap_servers=server.bootstrap, acks="all", enable_idempotence=False
    )
    for sent in [producer.send(topic, value, partition=0) for value in values]:
        sent.get(timeout=60)
    producer.close()


def consume(server: KafkaServer, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=server.bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=60_000,
    )
    found = []
    for message in consumer:
        found.append(message.value)
        if len(found) == count:
            break
    consumer.close()
    return found


@pytest.mark.long
@pytest.mark.slow
def test_three_brokers_accept_messages_without_one_of_them(
    kafka_of_three: KafkaServer,
) -> None:
    topic = kafka_of_three.topic()
    before, after = (
        [f"{word} {number}".encode() for number in range(50)] for word in ("before", "after")
    )
    produce(kafka_of_three, topic, before)
    leader = kafka_of_three.leader(topic)
    leader.kill()
    produce(kafka_of_three, topic, after)
    assert kafka_of_three.leader(topic) is not leader
    leader.start()
    assert consume(kafka_of_three, topic, 100) == before + after


# The broker of `make test` is killed by F1.
@pytest.mark.long
@pytest.mark.slow
def test_acknowledged_messages_survive_a_kill(kafka: KafkaServer) -> None:
    topic = kafka.topic(partitions=2)
    values = [f"message {number}".encode() for number in range(100)]
    produce(kafka, topic, values)
    kafka.kill()
    kafka.start()
    assert consume(kafka, topic, len(values)) == values


def test_topics_are_not_created_automatically(kafka: KafkaServer) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap, max_block_ms=1_000)
    with contextlib.closing(producer), pytest.raises(KafkaTimeoutError):
        producer.send("unheard-of", b"?")
    with contextlib.closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap)) as admin:
        assert "unheard-of" not in admin.list_topics()
