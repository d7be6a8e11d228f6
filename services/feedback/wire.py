"""Conversion between protobuf bytes of the log and domain events.

Only this module parses payloads. Fields unknown to this version are preserved as bytes, so a
rollback loses no data.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.errors import InvalidArgumentError
from services.contracts.wire import feedback_value_from, sample_from
from services.feedback.dead_letters import UndecodableError
from services.feedback.events import FeedbackEvent, TurnEvent, Words, check_feedback, check_turn
from services.feedback.spool.log import Entry, Record

SCHEMA_MAJOR = 1
EventT = TypeVar("EventT", FeedbackEvent, TurnEvent)


def feedback_entry(message: events_pb2.FeedbackEvent, traceparent: str = "") -> Entry:
    """Return the log entry of a feedback event.

    The fingerprint excludes accept_time, because the gateway sends a new time with each retry.
    """
    content = events_pb2.FeedbackEvent()
    content.CopyFrom(message)
    content.ClearField("accept_time")
    return _entry(message, content, traceparent)


def turn_entry(message: events_pb2.TurnEvent, traceparent: str = "") -> Entry:
    """Return the log entry of a turn event.

    The fingerprint excludes parent_message_id, because the consent may change before a retry.
    """
    content = message
    if message.HasField("parent_message_id"):
        content = events_pb2.TurnEvent()
        content.CopyFrom(message)
        content.ClearField("parent_message_id")
    return _entry(message, content, traceparent)


def extract_feedback_texts(event: events_pb2.FeedbackEvent) -> events_pb2.FeedbackEvent:
    """Move the user's texts out of an event into a new event with no other fields.

    Unknown fields of a newer writer stay in the original event.
    """
    texts = events_pb2.FeedbackEvent()
    kind = event.WhichOneof("value")
    if kind == "correction":
        texts.correction.text = event.correction.text
        event.correction.ClearField("text")
    elif kind == "thumb" and (event.thumb.reasons or event.thumb.comment):
        texts.thumb.reasons.extend(event.thumb.reasons)
        texts.thumb.comment = event.thumb.comment
        event.thumb.ClearField("reasons")
        event.thumb.ClearField("comment")
    elif kind == "ranking" and any(answer.text for answer in event.ranking.answers):
        for answer in event.ranking.answers:
            texts.ranking.answers.add(text=answer.text)
            answer.ClearField("text")
    return texts


def decode_words(texts: bytes) -> Words:
    """Parse the unsealed bytes of a feedback event into the user's texts."""
    message = events_pb2.FeedbackEvent.FromString(texts)
    return Words(tuple(message.thumb.reasons), message.thumb.comment, message.correction.text)


def extract_turn_texts(event: events_pb2.TurnEvent) -> events_pb2.TurnEvent:
    """Move all texts out of a turn into a new event: context, typed text, answer and sample."""
    texts = events_pb2.TurnEvent(
        context=event.context, original_text=event.original_text, answer=event.answer
    )
    if event.HasField("sample"):
        texts.sample.CopyFrom(event.sample)
    for name in ("context", "original_text", "answer", "sample"):
        event.ClearField(name)
    return texts


def decode_feedback(record: Record) -> FeedbackEvent:
    """Decode and check a feedback event.

    Raises:
        UndecodableError: The payload is malformed or breaks a limit.
    """
    return _decode(record, events_pb2.FeedbackEvent, feedback_from, check_feedback)


def decoded_feedback(records: Iterable[Record]) -> Iterator[tuple[Record, FeedbackEvent]]:
    """Yield records with their decoded events and skip undecodable records.

    Undecodable records become dead letters and have no effect.
    """
    for record in records:
        with suppress(UndecodableError):
            yield record, decode_feedback(record)


def decode_turn(record: Record) -> TurnEvent:
    """Decode and check a turn event.

    Raises:
        UndecodableError: The payload is malformed or breaks a limit.
    """
    return _decode(record, events_pb2.TurnEvent, turn_from, check_turn)


def feedback_from(message: events_pb2.FeedbackEvent) -> FeedbackEvent:
    """Convert a protobuf message to a domain event without checks."""
    return FeedbackEvent(
        event_id=message.event_id,
        tenant=message.tenant,
        principal=message.principal,
        conversation_id=message.conversation_id,
        message_id=message.message_id,
        model_version=message.model_version,
        arm=message.arm,
        accept_us=_microseconds(message.accept_time),
        value=feedback_value_from(message),
        rater=message.rater,
        sealed=message.sealed,
        unknown_bytes=_unknown(message),
    )


def turn_from(message: events_pb2.TurnEvent) -> TurnEvent:
    """Convert a protobuf message to a domain event without checks."""
    return TurnEvent(
        event_id=message.event_id,
        tenant=message.tenant,
        principal=message.principal,
        conversation_id=message.conversation_id,
        user_message_id=message.user_message_id,
        message_id=message.message_id,
        context=tuple((_name(chat_pb2.Role, "ROLE_", m.role), m.text) for m in message.context),
        original_text=message.original_text,
        answer=message.answer,
        finish_reason=_name(chat_pb2.FinishReason, "FINISH_REASON_", message.finish_reason),
        model_version=message.model_version,
        arm=message.arm,
        assignment_probability=message.assignment_probability,
        task=_name(chat_pb2.Task, "TASK_", message.task),
        temperature=message.temperature,
        top_p=message.top_p,
        prompt_tokens=message.usage.prompt_tokens,
        completion_tokens=message.usage.completion_tokens,
        policy_version=message.policy_version,
        guard_category=message.guard_category,
        finish_us=_microseconds(message.finish_time),
        erased=message.erased,
        cached=message.cached,
        parent_message_id=(
            message.parent_message_id if message.HasField("parent_message_id") else None
        ),
        sample=sample_from(message),
        sealed=message.sealed,
        unknown_bytes=_unknown(message),
    )


def _entry(
    message: events_pb2.FeedbackEvent | events_pb2.TurnEvent, content: Message, traceparent: str
) -> Entry:
    return Entry(
        event_id=message.event_id,
        key=message.conversation_id,
        fingerprint=hashlib.sha256(content.SerializeToString(deterministic=True)).digest(),
        schema_major=SCHEMA_MAJOR,
        payload=message.SerializeToString(deterministic=True),
        traceparent=traceparent,
    )


def _decode(
    record: Record,
    kind: type[Any],
    translate: Callable[[Any], EventT],
    check: Callable[[EventT], None],
) -> EventT:
    if record.entry.schema_major != SCHEMA_MAJOR:
        raise UndecodableError(
            f"schema major version is {record.entry.schema_major}, not {SCHEMA_MAJOR}",
            field="schema_major",
            reason="UNSUPPORTED",
            limit=str(SCHEMA_MAJOR),
        )
    try:
        event = translate(kind.FromString(record.entry.payload))
        check(event)
    except DecodeError as error:
        raise UndecodableError("payload is no valid protobuf", field="payload") from error
    except InvalidArgumentError as error:
        raise UndecodableError(
            f"invalid {error.field}", field=error.field, reason=error.reason, limit=error.limit
        ) from error
    if event.event_id != record.entry.event_id:
        raise UndecodableError(
            "event_id of header and payload differ", field="event_id", reason="MISMATCH"
        )
    return event


def _name(enum: Any, prefix: str, number: int) -> str:
    """Return a short enum name (`FINISH_REASON_STOP` → `stop`) or an unknown value's number."""
    if number not in enum.values():
        return str(number)
    return str(enum.Name(number)).removeprefix(prefix).lower()


def _microseconds(stamp: Timestamp) -> int:
    return stamp.seconds * 1_000_000 + stamp.nanos // 1_000


def _unknown(message: Message) -> bytes:
    """Return only the unknown fields of a message, at all levels except inside lists."""
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() == message.ByteSize():  # nearly all messages
        return b""
    rest = type(message)()
    rest.CopyFrom(message)
    _strip_known(rest)
    return rest.SerializeToString(deterministic=True)


def _strip_known(message: Message) -> None:
    for field, value in message.ListFields():
        if isinstance(value, Message):
            _strip_known(value)
            if value.ByteSize():
                continue
        message.ClearField(field.name)
