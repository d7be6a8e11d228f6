"""F23: foreign records in the topic become dead letters.

Each is accounted for and blocks no other record.
"""

import os
from typing import Any

import pytest
from kafka import KafkaProducer

from services.feedback.kafka.cluster import MAX_MESSAGE_BYTES
from services.feedback.kafka.record import headers_of
from tests.faults.feedback import Clients, Stack, local_replica, metric_value, wait_until_sunk
from tests.services.feedback.samples import entry, thumb


def foreign() -> list[tuple[bytes | None, list[tuple[str, bytes]]]]:
    """Return payloads and headers of foreign records."""
    sound = entry("foreign")
    headers = headers_of(sound)
    later = [(key, value if key != "schema" else b"2") for key, value in headers]
    # A protobuf string field with bytes that are invalid UTF-8.
    no_text = sound.payload.replace(b"acme", b"\xff\xfe\xff\xfe")
    return [
        (os.urandom(200), headers),
        (sound.payload[:-5], headers),
        (b"\x00" * (MAX_MESSAGE_BYTES - 10_000), headers),
        (no_text, headers),
        (sound.payload, later),
        (sound.payload, []),
        (sound.payload, [("event_id", b"\x00" * 100), *headers[1:]]),
        (None, headers),
        (thumb("another").SerializeToString(), headers),
    ]


@pytest.mark.slow
async def test_f23_every_foreign_record_is_a_dead_letter(
    feedback_stack: Stack, record_property: Any
) -> None:
    before = metric_value("dead_letters_total", stream="feedback")
    async with local_replica(feedback_stack) as stub:
        clients = Clients([stub])
        await clients.send(3)
        produce(feedback_stack)
        await clients.send(3)
        await wait_until_sunk(feedback_stack, clients.history)
        assert metric_value("dead_letters_total", stream="feedback") - before == len(foreign())
    letters = sum(segment.dead_letters for segment in feedback_stack.ledger.segments("feedback"))
    assert letters == len(foreign())
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", len(foreign()))
    record_property("dead_letters", letters)


def produce(feedback_stack: Stack) -> None:
    producer = KafkaProducer(
        bootstrap_servers=feedback_stack.kafka.bootstrap,
        enable_idempotence=False,
        max_request_size=2 * MAX_MESSAGE_BYTES,
    )
    for payload, headers in foreign():
        producer.send(feedback_stack.topics["feedback"], payload, key=b"k", headers=headers).get(
            timeout=30
        )
    producer.close()
