"""Conversion of records to topics and back, and of foreign records."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.feedback import wire as codec
from services.feedback.kafka.record import headers_of, record_of
from services.feedback.sink import UndecodableError
from services.feedback.spool.log import Record
from tests.services.feedback.samples import entry

ENTRY = replace(entry("a"), accept_order=7, traceparent="00-aaaa-bbbb-01")


@dataclass
class Message:
    """Consumed message of the client library."""

    offset: int = 5
    timestamp: int = 1_700
    key: bytes | None = ENTRY.key.encode()
    value: bytes | None = ENTRY.payload
    headers: Any = field(default_factory=lambda: headers_of(ENTRY))


def test_a_record_round_trips() -> None:
    assert record_of(Message()) == Record(5, 1_700_000, ENTRY)


def test_optional_headers_are_omitted() -> None:
    plain = entry("a")
    assert [key for key, _ in headers_of(plain)] == ["event_id", "schema", "fingerprint"]
    assert record_of(Message(headers=headers_of(plain))).entry == plain


def _without(name: str) -> list[tuple[str, bytes]]:
    return [(key, value) for key, value in headers_of(ENTRY) if key != name]


FOREIGN: dict[str, Message] = {
    "no headers": Message(headers=[]),
    "null headers": Message(headers=None),
    "a tombstone": Message(value=None),
    "no event id": Message(headers=_without("event_id")),
    "no schema": Message(headers=_without("schema")),
    "no fingerprint": Message(headers=_without("fingerprint")),
    "short fingerprint": Message(headers=[*_without("fingerprint"), ("fingerprint", b"x")]),
    "id with NUL": Message(headers=[*_without("event_id"), ("event_id", b"a\x00b")]),
    "endless id": Message(headers=[*_without("event_id"), ("event_id", b"a" * 65)]),
    "id that is no text": Message(headers=[*_without("event_id"), ("event_id", b"\xff\xfe")]),
    "schema that is no number": Message(headers=[*_without("schema"), ("schema", b"one")]),
    "order beyond any column": Message(
        headers=[*_without("accept_order"), ("accept_order", b"9" * 40)]
    ),
    "a later schema": Message(headers=[*_without("schema"), ("schema", b"2")]),
    "another event's id": Message(
        headers=[*_without("event_id"), ("event_id", entry("b").event_id.encode())]
    ),
    "random bytes": Message(key=b"\xff", value=b"\xff\x00\xff"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_record_is_undecodable(name: str) -> None:
    record = record_of(FOREIGN[name])
    assert record.offset == 5
    with pytest.raises(UndecodableError):
        codec.decode_feedback(record)
