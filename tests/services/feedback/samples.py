"""Sample events of gateway and session, with ids derived from readable names."""

import uuid
from collections.abc import Sequence

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import ERASED, principal_of, turn_event_id
from services.feedback import wire as codec
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.projections.thumbs import Thumbs
from services.feedback.sink import StreamFormat
from services.feedback.spool.log import Entry

KEY = "a key of the tests' own"
MASTER = "5e" * 32
ADA = Caller("acme", "ada")
# Reviewer of the same tenant.
RAE = Caller("acme", "rae")
FEEDBACK = StreamFormat(
    Stream.FEEDBACK, codec.decode_feedback, parquet.feedback_row, parquet.encode_feedback
)
TURNS = StreamFormat(Stream.TURNS, codec.decode_turn, parquet.turn_row, parquet.encode_turns)


def name(text: str) -> str:
    """Return the UUID of a name; equal names give equal ids."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, text))


def answer_id(begun_us: int, number: int = 0) -> str:
    """Return the UUIDv7 of an answer that was begun at a time in microseconds since 1970."""
    stamp = f"{begun_us // 1_000:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7000-8000-{number:012x}"


def feedback(
    request: str, message: str = "m", caller: Caller = ADA, at: int = 1_000
) -> events_pb2.FeedbackEvent:
    """Return an event without a value; `at` is its accept time in seconds since 1970."""
    event = events_pb2.FeedbackEvent(
        event_id=name(f"{caller.key}/{request}"),
        tenant=caller.tenant,
        principal=principal_of(KEY, caller),
        conversation_id=name(f"conversation of {message}"),
        message_id=name(message),
        model_version="v1",
        arm="stable",
    )
    event.accept_time.FromSeconds(at)
    return event


def thumb(
    request: str, up: bool = True, message: str = "m", caller: Caller = ADA, at: int = 1_000
) -> events_pb2.FeedbackEvent:
    event = feedback(request, message, caller, at)
    event.thumb.up = up
    return event


def retraction(
    request: str, message: str = "m", caller: Caller = ADA, kind: str = "thumb"
) -> events_pb2.FeedbackEvent:
    event = feedback(request, message, caller)
    event.retraction.kind = kind
    return event


def correction(
    request: str, text: str = "a better answer", message: str = "m", caller: Caller = ADA
) -> events_pb2.FeedbackEvent:
    event = feedback(request, message, caller)
    event.correction.text = text
    return event


def ranking(
    request: str,
    *answers: tuple[str, int],
    message: str = "m",
    caller: Caller = ADA,
    rater: Caller | None = None,
) -> events_pb2.FeedbackEvent:
    """Return a ranking of stored answers and texts.

    Args:
        answers: rank of each answer by the name of a message, or by a text with a space.
    """
    event = feedback(request, message, caller)
    source = events_pb2.RANKING_SOURCE_REVIEW if rater else events_pb2.RANKING_SOURCE_ARENA
    event.ranking.source = source
    for answer, rank in answers or (("m", 1), ("n", 2)):
        found = event.ranking.answers.add(rank=rank, model_version=f"v{rank}")
        if " " in answer:
            found.text = answer
        else:
            found.message_id = name(answer)
    return rated(event, rater) if rater else event


def rated(event: events_pb2.FeedbackEvent, rater: Caller = RAE) -> events_pb2.FeedbackEvent:
    """Return the event as feedback of a reviewer."""
    event.rater = principal_of(KEY, rater)
    return event


async def ups(thumbs: Thumbs, principal: str, message_ids: Sequence[str]) -> dict[str, bool | None]:
    """Return message id → up for messages with a current thumb."""
    return {
        key: opinion.up for key, opinion in (await thumbs.current(principal, message_ids)).items()
    }


def entry(request: str, up: bool = True, message: str = "m") -> Entry:
    """Return the log entry of a thumb."""
    return codec.feedback_entry(thumb(request, up, message))


def garbage(request: str) -> Entry:
    """Return an entry with an invalid protobuf payload."""
    return Entry(name(f"garbage {request}"), "key", bytes(32), codec.SCHEMA_MAJOR, b"\xff\xff")


def turn(answer: str = "forty-two", message: str = "m", revision: int = 0) -> events_pb2.TurnEvent:
    event = events_pb2.TurnEvent(
        event_id=name(f"{message}/{revision}"),
        tenant=ADA.tenant,
        principal=principal_of(KEY, ADA),
        conversation_id=name(f"conversation of {message}"),
        user_message_id=name(f"question of {message}"),
        message_id=name(message),
        context=[chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="what is it?")],
        original_text="wat is it",
        answer=answer,
        finish_reason=chat_pb2.FINISH_REASON_STOP,
        model_version="v1",
        arm="candidate",
        assignment_probability=0.125,
        task=chat_pb2.TASK_CHAT,
        temperature=0.5,
        top_p=0.75,
        usage=chat_pb2.Usage(prompt_tokens=7, completion_tokens=3),
        policy_version="p1",
    )
    event.finish_time.FromSeconds(2_000)
    return event


def sampled(answer: str = "forty-two", message: str = "m") -> events_pb2.TurnEvent:
    """Return a turn with its sampled tokens."""
    event = turn(answer, message)
    event.sample.token_ids.extend([262_143, 7, 1])
    event.sample.log_probs.extend([-0.75, -0.25, -0.0009765625])
    return event


def erased(message: str = "m", event_id: str = "") -> events_pb2.TurnEvent:
    """Return the turn sent by session after the deletion of a conversation.

    Golden bytes have an `event_id` of their own.
    """
    event = turn("", message)
    event.ClearField("context")
    event.ClearField("original_text")
    event.event_id = event_id or turn_event_id(event.message_id, ERASED)
    event.erased = True
    return event
