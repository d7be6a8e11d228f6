"""Identifiers of rows: increasing UUIDv7, as the library generates them."""

import time
import uuid

from uuid_utils import uuid7


def test_ids_are_uuid7_and_increase_within_a_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    ids = [str(uuid7()) for _ in range(10_000)]
    assert ids == sorted(set(ids))
    first = uuid.UUID(ids[0])
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    assert before <= first.int >> 80 <= time.time_ns() // 1_000_000
