"""Form of a record in a topic: key, payload, headers.

Headers: event_id, schema (major version), fingerprint (32 bytes), and optionally accept_order and
traceparent. Foreign records are converted to undecodable records.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from services.feedback.spool.log import Entry, Record

Headers = Sequence[tuple[str, bytes]]
FINGERPRINT_BYTES = 32
# Limits of database columns, checked for records of any writer.
_EVENT_ID = re.compile(rb"[0-9a-zA-Z-]{1,64}")
_NUMBER = re.compile(rb"[0-9]{1,18}")


class Message(Protocol):
    """Consumed record of the client library."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def headers_of(entry: Entry) -> list[tuple[str, bytes]]:
    """Return the headers of an entry."""
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
    """Return the record of a consumed message.

    Without valid headers the schema version is 0, undecodable for every version, so the record
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
    # Times in a topic are in milliseconds.
    return Record(message.offset, message.timestamp * 1_000, entry)
