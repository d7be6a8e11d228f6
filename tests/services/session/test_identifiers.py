"""Identifiers: increasing UUIDv7, and fixed event ids."""

import time
import uuid

from services.session.identifiers import (
    ERASED,
    FINISHED,
    TURN_NAMESPACE,
    IdGenerator,
    turn_event_id,
)


def test_ids_are_uuid7_and_increase_within_a_millisecond() -> None:
    generator = IdGenerator()
    before = time.time_ns() // 1_000_000
    ids = [generator.new_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    first = uuid.UUID(ids[0])
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    assert before <= first.int >> 80 <= time.time_ns() // 1_000_000


def test_event_ids_of_a_turn_are_fixed() -> None:
    assert uuid.uuid5(uuid.NAMESPACE_URL, "urn:thumbwheel:turns") == TURN_NAMESPACE
    answer = "01900000-0000-7000-8000-000000000001"
    assert turn_event_id(answer, FINISHED) == "a3261648-a09b-593d-ae87-0c42fae741fa"
    assert turn_event_id(answer, ERASED) == "05044d0c-0317-53b0-9443-e96cd9566183"
