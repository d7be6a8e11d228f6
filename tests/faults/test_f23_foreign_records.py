"""F23: foreign records in the topic become dead letters.

Each is accounted for and blocks no other record.
"""

import os
from dataclasses import replace
from typing import Any

import pytest
from kafka import KafkaProducer

from services.feedback.kafka.cluster import MAX_MESSAGE_BYTES
from services.feedback.kafka.record import RecordSigner, headers_of
from services.feedback.principals.sealing import MasterKey
from tests.faults.feedback import Clients, Stack, local_replica, metric_value, wait_until_sunk
from tests.services.feedback.samples import MASTER, entry, thumb


def foreign() -> list[tuple[bytes | None, list[tuple[str, bytes]]]]:
    """Return payloads and headers of foreign records."""
    sound = replace(entry("foreign"), key="k")
    signer = RecordSigner("feedback", MasterKey(MASTER).record_key())
    # Signed, as if a relay had written them: scenario F56 covers records without a valid signature.
    payloads = [
        os.urandom(200),
        sound.payload[:-5],
        b"\x00" * (MAX_MESSAGE_BYTES - 10_000),
        # A protobuf string field with bytes that are invalid UTF-8.
        sound.payload.replace(b"acme", b"\xff\xfe\xff\xfe"),
        b"",
        thumb("another").SerializeToString(),
    ]
    headers = headers_of(sound, signer)
    return [
        *(
            (payload or None, headers_of(replace(sound, payload=payload), signer))
            for payload in payloads
        ),
        (sound.payload, headers_of(replace(sound, schema_major=2), signer)),
        (sound.payload, []),
        (sound.payload, [("event_id", b"\x00" * 100), *headers[1:]]),
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
