"""Both streams over one database, with answers of versions and their counts."""

from collections.abc import Collection, Mapping

from sqlalchemy import delete, select
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import ERASED, principal_of, turn_event_id
from services.feedback import wire as codec
from services.feedback.projections import answers, current_feedback, signals
from services.feedback.projections.thumbs import Key, Thumbs, ThumbState
from services.feedback.projections.version_feedback import (
    RateSums,
    VersionFeedback,
    VersionFeedbacks,
)
from services.feedback.spool.spool import Spool
from services.feedback.store import tables
from tests.services.feedback.samples import (
    ADA,
    FEEDBACK,
    KEY,
    TURNS,
    answer_id,
    feedback,
    name,
    turn,
)
from tests.services.feedback.sunk_logs import SunkLogs

BOB, CLEO = Caller("acme", "bob"), Caller("acme", "cleo")
SECOND = 1_000_000
DAY = 86_400 * SECOND
SINCE = 1_795_900_000 * SECOND


Counts = tuple[int, int]
"""Trials and events of a rate."""


class NoPending:
    """Pending thumbs of a service whose thumbs are all in the ledger."""

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, ThumbState]:
        return {}


class World(SunkLogs):
    """Both streams over one database."""

    def turns(self, *turns: events_pb2.TurnEvent, on: Spool | None = None) -> Spool:
        """Sink turns through a new log."""
        entries = map(codec.turn_entry, turns)
        return self.sink_entries(TURNS, entries, current_feedback.fold_turns, on)

    def feedback(self, *events: events_pb2.FeedbackEvent) -> Spool:
        """Sink feedback through a new log."""
        entries = map(codec.feedback_entry, events)
        return self.sink_entries(FEEDBACK, entries, current_feedback.fold)

    async def read(
        self,
        *versions: str,
        since_us: int = SINCE,
        training_default: bool = True,
        now_us: int = SINCE + DAY,
    ) -> dict[str, VersionFeedback]:
        thumbs = Thumbs(self.engine, NoPending())
        reader = VersionFeedbacks(self.engine, thumbs, training_default, lambda: now_us)
        return {each.model_version: each for each in await reader.of_versions(versions, since_us)}

    def rows(self) -> set[tuple[object, ...]]:
        with self.engine.begin() as connection:
            return {
                tuple(row)
                for table in (tables.answers, tables.signals)
                for row in connection.execute(select(table))
            }

    async def rates(
        self, version: str = "v1", training_default: bool = True, now_us: int = SINCE + DAY
    ) -> dict[str, Counts]:
        """Return trials and events by rate."""
        found = (await self.read(version, training_default=training_default, now_us=now_us))[
            version
        ]
        return {sums.name: (sums.trials, sums.events) for sums in found.rates}


def rebuilt(world: World) -> set[tuple[object, ...]]:
    """Rebuild the tables from the objects and return their rows."""
    with world.engine.begin() as connection:
        connection.execute(delete(tables.answer_positions))
        connection.execute(delete(tables.signal_positions))
    assert answers.catch_up(world.ledger, world.store, "turns")
    assert not answers.catch_up(world.ledger, world.store, "turns")
    signals.catch_up(world.ledger, world.store, "feedback")
    return world.rows()


def answer(
    number: int,
    version: str = "v1",
    caller: Caller = ADA,
    begun_us: int = SINCE,
    finish: chat_pb2.FinishReason.ValueType = chat_pb2.FINISH_REASON_STOP,
    category: str = "",
) -> events_pb2.TurnEvent:
    """Return a finished turn; a number names the answer."""
    event = turn(message=f"{number}")
    event.message_id = answer_id(begun_us, number)
    event.principal, event.model_version, event.arm = principal_of(KEY, caller), version, "stable"
    event.finish_reason, event.guard_category = finish, category
    event.finish_time.FromMicroseconds(begun_us + SECOND)
    return event


def deleted(event: events_pb2.TurnEvent) -> events_pb2.TurnEvent:
    """Return the turn that session sends when the conversation of a turn was deleted."""
    gone = events_pb2.TurnEvent()
    gone.CopyFrom(event)
    for field in ("context", "original_text", "answer"):
        gone.ClearField(field)
    gone.event_id, gone.erased = turn_event_id(event.message_id, ERASED), True
    return gone


def on(event: events_pb2.TurnEvent, vote: events_pb2.FeedbackEvent) -> events_pb2.FeedbackEvent:
    """Return the vote on this answer by the user of the turn, a second later."""
    for field in ("principal", "message_id", "model_version", "arm", "conversation_id"):
        setattr(vote, field, getattr(event, field))
    vote.accept_time.FromMicroseconds(event.finish_time.ToMicroseconds() + SECOND)
    return vote


def sums(name: str, *users: tuple[int, int]) -> RateSums:
    """Return the sums over users, each with trials and events."""
    counted = [(n, x) for n, x in users if n]
    return RateSums(
        name,
        len(counted),
        sum(n for n, _ in counted),
        sum(x for _, x in counted),
        sum(n * n for n, _ in counted),
        sum(x * x for _, x in counted),
        sum(x * n for n, x in counted),
    )


def replied(
    number: int,
    parent: str = "",
    question: int | None = None,
    caller: Caller = ADA,
    version: str = "v1",
) -> events_pb2.TurnEvent:
    """Return an answer in a conversation of its user, with consent to implicit signals.

    Args:
        number: Names the answer and gives its place in time.
        parent: Message to which the user replied; empty for the first message.
        question: Names the user's message; by default a new message.
    """
    begun_us = SINCE + number * 1_000
    event = answer(number, version, caller, begun_us)
    event.conversation_id = name(f"conversation of {caller.key}")
    asked = number if question is None else question
    event.user_message_id = answer_id(SINCE + asked * 1_000, 10_000 + asked)
    event.parent_message_id = parent
    return event


def copied(
    event: events_pb2.TurnEvent, caller: Caller = ADA, request: str = "copied"
) -> events_pb2.FeedbackEvent:
    """Return the signal that the user copied this answer."""
    signal = feedback(f"{request} {event.message_id}", caller=caller)
    signal.signal.kind = "copied"
    return on(event, signal)


def without_consent(event: events_pb2.TurnEvent) -> events_pb2.TurnEvent:
    event.ClearField("parent_message_id")
    return event
