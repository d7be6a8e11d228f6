"""How a record lies in a topic: key, payload, headers, and back. A foreign record comes back too:
as one that nobody can decode.

Headers: event_id, schema (major), fingerprint (32 bytes), accept_order if there is one, traceparent
    if there is one.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from services.feedback.spool.frames import Entry, Record

Headers = Sequence[tuple[str, bytes]]
FINGERPRINT_BYTES = 32
# What stands in a database column must fit it, whoever wrote it.
_EVENT_ID = re.compile(rb"[0-9a-zA-Z-]{1,64}")
_NUMBER = re.compile(rb"[0-9]{1,18}")


class Message(Protocol):
    """A consumed record, as the client hands it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def headers_of(entry: Entry) -> list[tuple[str, bytes]]:
    """The headers of an event."""
    headers = [
        ("event_id", entry.event_id.encode()),
        ("schema", str(entry.schema_major).encode()),
        ("fingerprint", entry.fingerprint),
    ]
    if entry.accept_order:
        headers.append(("accept_order", str(entry.accept_order).encode()))
    if entry.traceparent:
        headers.append(("traceparent", entry.traceparent.encode()))
    return headers


def record_of(message: Message) -> Record:
    """The record at its offset. Without sound headers its schema is 0, which no version decodes: it
    becomes a dead letter.
    """
    headers = dict(message.headers or ())
    event_id, fingerprint = headers.get("event_id") or b"", headers.get("fingerprint") or b""
    schema, order = headers.get("schema") or b"", headers.get("accept_order") or b"0"
    sound = (
        _EVENT_ID.fullmatch(event_id)
        and len(fingerprint) == FINGERPRINT_BYTES
        and _NUMBER.fullmatch(schema)
        and _NUMBER.fullmatch(order)
    )
    entry = Entry(
        event_id=event_id.decode() if sound else "",
        key=(message.key or b"").decode(errors="replace"),
        fingerprint=fingerprint if sound else bytes(FINGERPRINT_BYTES),
        schema_major=int(schema) if sound else 0,
        payload=message.value or b"",
        accept_order=int(order) if sound else 0,
        traceparent=(headers.get("traceparent") or b"").decode(errors="replace"),
    )
    # The time is milliseconds in a topic.
    return Record(message.offset, message.timestamp * 1_000, entry)
