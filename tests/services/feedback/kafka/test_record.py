"""Conversion of records to topics and back, and of foreign records."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.feedback import wire as codec
from services.feedback.dead_letters import UndecodableError
from services.feedback.kafka.record import RecordSigner, headers_of, record_of
from services.feedback.principals.sealing import MasterKey
from services.feedback.spool.log import Entry, Record, Signature
from tests.services.feedback.samples import MASTER, entry

SIGNER = RecordSigner("feedback", MasterKey(MASTER).record_key())
ENTRY = replace(entry("a"), accept_order=7, traceparent="00-aaaa-bbbb-01")


@dataclass
class Message:
    """Consumed message of the client library."""

    offset: int = 5
    timestamp: int = 1_700
    key: bytes | None = ENTRY.key.encode()
    value: bytes | None = ENTRY.payload
    headers: Any = field(default_factory=lambda: headers_of(ENTRY, SIGNER))


def test_a_record_round_trips() -> None:
    assert record_of(Message(), SIGNER) == Record(5, 1_700_000, ENTRY)


def test_optional_headers_are_omitted() -> None:
    plain = entry("a")
    assert [key for key, _ in headers_of(plain, SIGNER)] == [
        *("event_id", "schema", "fingerprint", "signature")
    ]
    assert record_of(Message(headers=headers_of(plain, SIGNER)), SIGNER).entry == plain


def _without(name: str) -> list[tuple[str, bytes]]:
    return [(key, value) for key, value in headers_of(ENTRY, SIGNER) if key != name]


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
    record = record_of(FOREIGN[name], SIGNER)
    assert record.offset == 5
    with pytest.raises(UndecodableError):
        codec.decode_feedback(record)


def signature_of(
    changed: Entry, signer: RecordSigner = SIGNER, signature: bytes | None = None
) -> Signature:
    """Check an entry with the signature of ENTRY, or with another signature."""
    given = SIGNER.sign(ENTRY) if signature is None else signature
    headers = [*headers_of(changed, signer)[:3], ("signature", given)]
    headers += [("accept_order", str(changed.accept_order).encode())]
    message = Message(key=changed.key.encode(), value=changed.payload, headers=headers)
    return record_of(message, signer).signature


OTHER = entry("b", up=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"event_id": OTHER.event_id},
        {"key": OTHER.key + "x"},
        {"fingerprint": OTHER.fingerprint},
        {"schema_major": 2},
        {"payload": OTHER.payload},
        {"accept_order": ENTRY.accept_order + 1},
        # Bytes that move from one field into the next.
        {"key": ENTRY.key[:-1], "fingerprint": ENTRY.key[-1:].encode() + ENTRY.fingerprint[:-1]},
    ],
)
def test_signature_covers_every_field_that_the_sink_uses(changes: dict[str, Any]) -> None:
    assert signature_of(ENTRY) is Signature.VALID
    assert signature_of(replace(ENTRY, **changes)) is Signature.WRONG


def test_signature_belongs_to_one_stream_and_one_installation() -> None:
    for stream, digits in (("turns", MASTER), ("feedback", "a1" * 32)):
        other = RecordSigner(stream, MasterKey(digits).record_key())
        assert signature_of(ENTRY, other) is Signature.WRONG


@pytest.mark.parametrize("signature", [b"", b"x" * 32, SIGNER.sign(ENTRY)[:-1]])
def test_wrong_signature_is_recognised(signature: bytes) -> None:
    assert signature_of(ENTRY, signature=signature) is Signature.WRONG


def test_missing_signature_is_recognised() -> None:
    assert record_of(Message(headers=_without("signature")), SIGNER).signature is Signature.MISSING
    assert record_of(Message(headers=None), SIGNER).signature is Signature.MISSING


def test_rotation_of_the_master_key_keeps_the_signatures_of_records_under_way() -> None:
    old = MasterKey(MASTER)
    new = MasterKey("a1" * 32, accepted=[MASTER]).with_fingerprints(old.fingerprint_key)
    assert new.record_key() == old.record_key()
