"""F56: records that another client of the topic forges are dead letters.

The forger knows the format and all public values: ids, principals, fingerprints and signatures of
records in the topic, but not the master key. No forged vote or correction becomes visible, and no
event id is taken before its owner sends the event.
"""

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from sqlalchemy import select
from thumbwheel.feedback.v1 import events_pb2

from services.contracts.identifiers import principal_of
from services.feedback.kafka.record import RecordSigner, headers_of
from services.feedback.store import tables
from services.feedback.wire import feedback_entry
from tests.faults.feedback import (
    Clients,
    Stack,
    current,
    local_replica,
    metric_value,
    record,
    wait_until_sunk,
)
from tests.services.feedback.samples import ADA, KEY, correction, thumb

Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
# The signature of a forger, who has no master key.
FORGER = RecordSigner("feedback", b"a key of the forger")
OWNED = "taken"


def sealed(said: events_pb2.FeedbackEvent) -> events_pb2.FeedbackEvent:
    """Return the event in the form of a relay: without texts, with bytes that look sealed."""
    if said.HasField("correction"):
        said.correction.ClearField("text")
    said.sealed = b"\x01" + os.urandom(80)
    return said


def forged(genuine: Message) -> list[Message]:
    """Return forged records, each of which an unverified sink would store as genuine."""
    key, payload, headers = genuine
    assert key is not None and payload is not None
    found: list[Message] = []
    for said in (
        sealed(thumb("forged-1", up=False, message="c0")),
        sealed(correction("forged-2", message="c1")),
        # The id of an event that its owner sends later.
        sealed(thumb(OWNED, up=False, message=OWNED)),
        # Plain texts, which only this service seals.
        correction("forged-3", "buy at evil.example", message="c2"),
    ):
        entry = replace(feedback_entry(said), fingerprint=os.urandom(32), accept_order=10**9)
        signed = headers_of(entry, FORGER)
        unsigned = [header for header in signed if header[0] != "signature"]
        found += [(entry.key.encode(), entry.payload, each) for each in (signed, unsigned)]
    # A genuine record with its signature and another payload, order, or id.
    vote = events_pb2.FeedbackEvent.FromString(payload)
    vote.thumb.up = not vote.thumb.up
    later = [("accept_order", b"999999999"), *_without(headers, "accept_order")]
    another = thumb("forged-4", message="c3")
    moved = [("event_id", another.event_id.encode()), *_without(headers, "event_id")]
    vote_of_another = events_pb2.FeedbackEvent.FromString(payload)
    vote_of_another.event_id = another.event_id
    return [
        *found,
        (key, vote.SerializeToString(), headers),
        (key, payload, later),
        (key, vote_of_another.SerializeToString(), moved),
    ]


def _without(headers: list[tuple[str, bytes]], name: str) -> list[tuple[str, bytes]]:
    return [header for header in headers if header[0] != name]


def produce(stack: Stack, messages: list[Message]) -> None:
    producer = KafkaProducer(bootstrap_servers=stack.kafka.bootstrap, enable_idempotence=False)
    with contextlib.closing(producer):
        for key, payload, headers in messages:
            topic = stack.topics["feedback"]
            producer.send(topic, payload, key=key, headers=headers).get(timeout=30)


def read_one(stack: Stack) -> Message:
    """Return a genuine record of the topic."""
    topic = stack.topics["feedback"]
    with contextlib.closing(
        KafkaConsumer(bootstrap_servers=stack.kafka.bootstrap, auto_offset_reset="earliest")
    ) as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(3)])
        while not (polled := consumer.poll(timeout_ms=1_000)):
            pass
    message = next(iter(polled.values()))[0]
    return message.key, message.value, list(message.headers)


@pytest.mark.slow
async def test_f56_every_forged_record_is_a_dead_letter_and_takes_no_id(
    feedback_stack: Stack, record_property: Any
) -> None:
    before = metric_value("dead_letters_total", stream="feedback")
    async with local_replica(feedback_stack) as stub:
        clients = Clients([stub])
        await clients.send(3)
        await wait_until_sunk(feedback_stack, clients.history)
        votes = await current(stub, *clients.history.sent)
        genuine = await asyncio.to_thread(read_one, feedback_stack)
        forgeries = forged(genuine)
        await asyncio.to_thread(produce, feedback_stack, forgeries)
        # An exact copy is a repeated delivery, as by a relay after a crash.
        await asyncio.to_thread(produce, feedback_stack, [genuine])
        await wait_until_sunk(feedback_stack, clients.history)
        assert await current(stub, *clients.history.sent) == votes
        assert await current(stub, OWNED) == {}

        await record(stub, thumb(OWNED, up=True, message=OWNED))
        assert await current(stub, OWNED) == {OWNED: True}
        owned = thumb(OWNED).event_id
        clients.history.sent[OWNED] = [owned]
        clients.history.acknowledged.add(owned)
        await clients.send(1)
        await wait_until_sunk(feedback_stack, clients.history)
        assert metric_value("dead_letters_total", stream="feedback") - before == len(forgeries)
    with feedback_stack.engine.connect() as connection:
        errors = connection.execute(select(tables.dead_letters.c.error)).scalars().all()
    assert {error: errors.count(error) for error in errors} == {
        "signature is missing": 4,
        "signature is wrong": len(forgeries) - 4,
    }
    rows = {str(row["event_id"]): row for row in feedback_stack.rows()}
    assert rows[owned]["up"] is True
    assert rows.keys() == clients.history.acknowledged
    assert {row["principal"] for row in rows.values()} == {principal_of(KEY, ADA)}
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", len(forgeries))
    record_property("dead_letters", len(errors))
