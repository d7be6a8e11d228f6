"""Decoding of log payloads: golden bytes of every release, unknown fields, and errors."""

import base64
import json
from pathlib import Path

import pytest
from thumbwheel.feedback.v1 import events_pb2
from thumbwheel.generator.v1 import sample_pb2

from services.chassis.errors import InvalidArgumentError
from services.contracts.chat import Sample
from services.contracts.feedback import Correction, Retraction, Thumb
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.dead_letters import UndecodableError
from services.feedback.events import check_turn
from services.feedback.lake import parquet
from services.feedback.spool.log import Entry, Record
from tests.services.feedback.samples import (
    ADA,
    KEY,
    correction,
    erased,
    name,
    retraction,
    sampled,
    thumb,
    turn,
)
from tests.support.errors import refused

GOLDEN = Path(__file__).parent / "golden"
UNKNOWN = b"\xaa\x06\x03new"  # field 101, length-delimited


def golden(event_id: str, kind: str, release: str = "v1") -> Record:
    """Return a record with the bytes written by a release.

    Golden files never change; each release adds a file.
    """
    payload = base64.b64decode(json.loads((GOLDEN / f"{release}.json").read_text())[kind])
    return Record(0, 0, Entry(event_id, "key", bytes(32), 1, payload))


def record(
    message: events_pb2.FeedbackEvent, payload: bytes | None = None, schema_major: int = 1
) -> Record:
    sent = payload if payload is not None else message.SerializeToString()
    return Record(3, 9, Entry(message.event_id, "key", bytes(32), schema_major, sent))


def test_golden_bytes_of_a_thumb_decode() -> None:
    event = codec.decode_feedback(golden(name("acme/ada/golden"), "thumb"))
    assert event.value == Thumb(
        up=False, reasons=("wrong", "too long"), comment="Stimmt nicht: 7 × 8 = 56 😀"
    )
    assert (event.tenant, event.principal) == ("acme", principal_of(KEY, ADA))
    assert (event.message_id, event.conversation_id) == (name("m"), name("conversation of m"))
    assert (event.model_version, event.arm, event.accept_us) == ("v1", "stable", 1_000_000_000)


def test_golden_bytes_of_a_correction_and_a_retraction_decode() -> None:
    event_id = name("acme/ada/golden")
    assert codec.decode_feedback(golden(event_id, "correction")).value == Correction("fifty-six")
    assert codec.decode_feedback(golden(event_id, "retraction")).value == Retraction("thumb")


def test_golden_bytes_of_a_turn_decode() -> None:
    event = codec.decode_turn(golden(name("m/0"), "turn"))
    assert event.context == (("user", "what is it?"),)
    assert (event.original_text, event.answer, event.erased) == ("wat is it", "fifty-four", False)
    assert (event.finish_reason, event.task) == ("stop", "chat")
    assert (event.assignment_probability, event.temperature, event.top_p) == (0.125, 0.5, 0.75)
    assert (event.prompt_tokens, event.completion_tokens, event.finish_us) == (7, 3, 2_000_000_000)
    gone = codec.decode_turn(golden(name("m/1"), "erased"))
    assert (gone.erased, gone.context, gone.answer, gone.original_text) == (True, (), "", "")


def test_a_turn_records_a_cached_answer() -> None:
    message = turn()
    assert not codec.turn_from(message).cached
    message.cached = True
    event = codec.turn_from(message)
    assert (event.cached, parquet.turn_row(event)["cached"], event.unknown_bytes) == (
        True,
        True,
        b"",
    )


def test_a_turn_has_a_sample_and_an_older_turn_has_none() -> None:
    event = codec.turn_from(sampled())
    assert event.sample == Sample((262_143, 7, 1), (-0.75, -0.25, -0.0009765625))
    assert codec.turn_from(turn()).sample is None
    assert event.unknown_bytes == b""


@pytest.mark.parametrize(
    ("field", "sample"),
    [
        ("token_ids", sample_pb2.Sample()),
        ("token_ids", sample_pb2.Sample(token_ids=[7] * 4097, log_probs=[-1] * 4097)),
        ("log_probs", sample_pb2.Sample(token_ids=[7, 8], log_probs=[-1])),
        ("log_probs", sample_pb2.Sample(token_ids=[7], log_probs=[-1, -1])),
        ("log_probs", sample_pb2.Sample(token_ids=[7], log_probs=[float("nan")])),
        ("log_probs", sample_pb2.Sample(token_ids=[7], log_probs=[0.5])),
    ],
)
def test_an_invalid_sample_is_rejected_with_its_field(
    field: str, sample: sample_pb2.Sample
) -> None:
    message = turn()
    message.sample.CopyFrom(sample)
    with pytest.raises(InvalidArgumentError) as caught:
        check_turn(codec.turn_from(message))
    assert caught.value.field == f"turn.sample.{field}"


def test_a_retracting_turn_has_no_sample() -> None:
    message = erased()
    message.sample.CopyFrom(sampled().sample)
    with refused(InvalidArgumentError, field="turn.erased"):
        check_turn(codec.turn_from(message))


def test_the_bytes_written_today_are_those_of_the_golden_file() -> None:
    today = {
        "correction": correction("golden", "fifty-six"),
        "retraction": retraction("golden"),
        "turn": turn("fifty-four"),
        "erased": erased(event_id=name("m/1")),
    }
    stored = json.loads((GOLDEN / "v1.json").read_text())
    for kind, message in today.items():
        assert message.SerializeToString(deterministic=True) == base64.b64decode(stored[kind]), kind


def test_fields_of_a_newer_writer_are_kept_as_bytes_down_to_the_row() -> None:
    message = thumb("a")
    newer = events_pb2.FeedbackEvent.FromString(message.SerializeToString() + UNKNOWN)
    entry = codec.feedback_entry(newer)
    event = codec.decode_feedback(Record(0, 0, entry))
    assert event.unknown_bytes == UNKNOWN
    assert parquet.feedback_row(event)["unknown_bytes"] == UNKNOWN
    assert codec.decode_feedback(record(message)).unknown_bytes == b""


def test_unknown_fields_inside_a_known_message_are_kept_too() -> None:
    message = thumb("a")
    message.thumb.MergeFromString(UNKNOWN)
    kept = events_pb2.FeedbackEvent.FromString(codec.feedback_from(message).unknown_bytes)
    assert kept.thumb.SerializeToString() == UNKNOWN
    assert not kept.event_id


def test_an_enum_value_of_a_newer_writer_is_its_number() -> None:
    message = turn()
    message.finish_reason = 77
    assert codec.turn_from(message).finish_reason == "77"


def test_a_retry_at_another_time_has_the_same_fingerprint() -> None:
    first = codec.feedback_entry(thumb("a", at=1_000))
    assert codec.feedback_entry(thumb("a", at=2_000)).fingerprint == first.fingerprint
    assert codec.feedback_entry(thumb("a", up=False)).fingerprint != first.fingerprint
    assert codec.turn_entry(turn("x")).fingerprint != codec.turn_entry(turn("y")).fingerprint


def test_a_retry_after_a_change_of_consent_has_the_same_fingerprint() -> None:
    allowed, refused = turn(), turn()
    allowed.parent_message_id = name("parent")
    assert codec.turn_entry(allowed).fingerprint == codec.turn_entry(refused).fingerprint
    assert codec.turn_entry(allowed).payload != codec.turn_entry(refused).payload


def test_an_absent_parent_differs_from_an_empty_one() -> None:
    first, without = turn(), turn()
    first.parent_message_id = ""
    assert codec.turn_from(first).parent_message_id == ""
    assert codec.turn_from(without).parent_message_id is None


def sealed(message: events_pb2.FeedbackEvent, with_bytes: bytes) -> events_pb2.FeedbackEvent:
    message.sealed = with_bytes
    return message


@pytest.mark.parametrize("length", [44, 45])
def test_malformed_sealed_bytes_are_rejected(length: int) -> None:
    message = sealed(retraction("a"), b"\x01" + bytes(length - 1))
    if length == 45:
        assert codec.decode_feedback(record(message)).sealed == message.sealed
    else:
        with refused(UndecodableError, field="event.sealed", reason="INVALID_ARGUMENT"):
            codec.decode_feedback(record(message))


@pytest.mark.parametrize(
    ("broken", "field", "reason"),
    [
        (record(thumb("a"), payload=b"\xff\xff"), "payload", "MALFORMED"),
        (record(thumb("a"), payload=thumb("a").SerializeToString()[:-1]), "payload", "MALFORMED"),
        (record(thumb("a"), payload=b"\x0a\x02\xff\xfe"), "payload", "MALFORMED"),
        (record(thumb("a"), payload=b""), "event.event_id", "INVALID_ARGUMENT"),
        (record(thumb("a"), payload=thumb("b").SerializeToString()), "event_id", "MISMATCH"),
        (record(thumb("a"), schema_major=2), "schema_major", "UNSUPPORTED"),
        (record(correction("a", "x" * 8_193)), "event.correction.text", "INVALID_ARGUMENT"),
        (record(sealed(thumb("a"), b"\x02" + bytes(60))), "event.sealed", "INVALID_ARGUMENT"),
        (
            record(sealed(correction("a", "x"), b"\x01" + bytes(60))),
            "event.sealed",
            "INVALID_ARGUMENT",
        ),
    ],
)
def test_an_undecodable_record_gives_a_reason_without_its_content(
    broken: Record, field: str, reason: str
) -> None:
    with refused(UndecodableError, field=field, reason=reason) as caught:
        codec.decode_feedback(broken)
    payload = broken.entry.payload.decode("latin-1")
    pieces = {payload[start : start + 12] for start in range(len(payload) - 11)}
    assert not [piece for piece in pieces if piece in caught.value.text]
