"""Form of a record in a topic: key, payload, headers.

Headers: event_id, schema (major version), fingerprint (32 bytes), signature (32 bytes), and
optionally accept_order and traceparent. Foreign records are converted to undecodable records.

Kafka lets every client with the right to write append a record. The signature proves that a relay
of this installation wrote the record: an HMAC under a key derived from the master key.
"""

import hmac
import re
from collections.abc import Sequence
from typing import Protocol

from services.feedback.spool.log import Entry, Record, Signature

Headers = Sequence[tuple[str, bytes]]
FINGERPRINT_BYTES = 32
LENGTH_BYTES = 8
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


class RecordSigner:
    """Signatures of the records of a stream.

    Args:
        stream: signed with each record, so that a record is valid in its own stream only. Not the
            topic, because a mirrored topic may have another name.
        key: the same in all replicas.
    """

    def __init__(self, stream: str, key: bytes) -> None:
        self._stream, self._key = stream, key

    def sign(self, entry: Entry) -> bytes:
        """Return the signature of an entry.

        All fields that the sink uses are signed: the fingerprint and the order too, because another
        order would let an older vote win. Trace and time of the record are not.
        """
        parts = (
            self._stream.encode(),
            entry.event_id.encode(),
            entry.key.encode(),
            entry.fingerprint,
            str(entry.schema_major).encode(),
            str(entry.accept_order).encode(),
            entry.payload,
        )
        # Each part with its length, so that no part can be moved into its neighbour.
        message = b"".join(len(part).to_bytes(LENGTH_BYTES, "big") + part for part in parts)
        return hmac.digest(self._key, message, "sha256")

    def check(self, entry: Entry, signature: bytes | None) -> Signature:
        """Compare a signature with the signature of the entry."""
        if signature is None:
            return Signature.MISSING
        is_valid = hmac.compare_digest(signature, self.sign(entry))
        return Signature.VALID if is_valid else Signature.WRONG


def headers_of(entry: Entry, signer: RecordSigner) -> list[tuple[str, bytes]]:
    """Return the headers of an entry."""
    headers = [
        ("event_id", entry.event_id.encode()),
        ("schema", str(entry.schema_major).encode()),
        ("fingerprint", entry.fingerprint),
        ("signature", signer.sign(entry)),
    ]
    if entry.accept_order:
        headers.append(("accept_order", str(entry.accept_order).encode()))
    if entry.traceparent:
        headers.append(("traceparent", entry.traceparent.encode()))
    return headers


def record_of(message: Message, signer: RecordSigner) -> Record:
    """Return the record of a consumed message, with the result of the check of its signature.

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
    signature = signer.check(entry, headers.get("signature"))
    return Record(message.offset, message.timestamp * 1_000, entry, signature)
