"""Conversion of the raw feedback log to judgements, the current rating per user and answer.

Events are de-duplicated by event id (the first counts), the last thumb wins, retractions are
applied, and feedback is joined with turns by message id (feedback may arrive before its turn).
Erased turns and withheld events are removed. Every dropped event is counted with a reason.

Thumbs on answers that did not end by themselves (token limit, user's stop, failure) are dropped,
because they would rate the length, and such answers must not be imitated. Corrections of them count
without the answer.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from training.data.chat import Message
from training.data.feedback.events import (
    Feedback,
    FeedbackKind,
    FinishReason,
    LogPosition,
    Turn,
    Withheld,
)
from training.data.served import Served


class Drop(StrEnum):
    """Reason for leaving an event out of the snapshot."""

    DUPLICATE_EVENT = "duplicate_event"
    SUPERSEDED = "superseded_by_later_feedback"
    RETRACTED = "retracted"
    RETRACTION = "retraction_applied"
    UNJOINED = "turn_not_yet_in_log"
    ERASED = "turn_erased"
    NO_CONSENT = Withheld.NO_CONSENT.value
    PRINCIPAL_ERASED = Withheld.ERASED.value
    FOREIGN = "rated_by_another_user"
    CACHED = "cached_answer"
    BLOCKED = "blocked_by_guard"
    INCOMPLETE = "answer_incomplete"
    EMPTY = "empty_text"
    OVER_CAP = "over_cap_of_user"


@dataclass(frozen=True)
class Judgement:
    """Rating of one answer by one user: a thumb, a correction, or both.

    `cut`: the answer did not end by itself, so only the correction is used.
    """

    message_id: str
    principal: str
    model_version: str
    arm: str
    context: tuple[Message, ...]
    answer: str
    up: bool | None
    correction: str | None
    served: Served | None = None
    cut: bool = False


@dataclass(frozen=True)
class Dropped:
    """One dropped event with the reason; holds no text."""

    event_id: str
    reason: Drop


@dataclass
class _CurrentFeedback:
    """Current feedback of one user on one message."""

    thumb: Feedback | None = None
    correction: Feedback | None = None

    def events(self) -> list[Feedback]:
        return [event for event in (self.thumb, self.correction) if event is not None]


class _LogEvent(Protocol):
    @property
    def place(self) -> LogPosition: ...
    @property
    def event_id(self) -> str: ...


Event = TypeVar("Event", bound=_LogEvent)


def judge(
    feedback: Iterable[Feedback], turns: Iterable[Turn], max_per_principal: int
) -> tuple[list[Judgement], list[Dropped]]:
    """Return judgements ordered by message id, and all dropped events.

    Args:
        max_per_principal: limit of rated answers per user. A hash selects them, so neither the
            first nor the last are favoured.
    """
    dropped: list[Dropped] = []
    # The last revision of every answer; an erasure overrides later revisions. Withheld turns are
    # included, because feedback on them is withheld too.
    known: dict[str, Turn] = {}
    for turn in _unique(turns, dropped):
        if turn.withheld:
            dropped.append(Dropped(turn.event_id, Drop(turn.withheld)))
        earlier = known.get(turn.message_id)
        if earlier is None or not earlier.erased:
            known[turn.message_id] = turn
    by_principal: dict[str, list[tuple[Turn, _CurrentFeedback]]] = defaultdict(list)
    for (principal, message_id), current in _current_feedback(feedback, dropped).items():
        rated = known.get(message_id)
        reason = _drop_reason(rated, principal)
        if rated is None or reason is not None:
            dropped += [
                Dropped(event.event_id, reason or Drop.UNJOINED) for event in current.events()
            ]
            continue
        if current.correction and not current.correction.text.strip():
            dropped.append(Dropped(current.correction.event_id, Drop.EMPTY))
            current.correction = None
        if current.thumb and rated.finish is not FinishReason.STOP:
            dropped.append(Dropped(current.thumb.event_id, Drop.INCOMPLETE))
            current.thumb = None
        if current.events():
            by_principal[principal].append((rated, current))
    judgements = [
        Judgement(
            message_id=turn.message_id,
            principal=turn.principal,
            model_version=turn.model_version,
            arm=turn.arm,
            context=turn.context,
            answer=turn.answer,
            up=None if current.thumb is None else current.thumb.up,
            correction=None if current.correction is None else current.correction.text,
            served=turn.served if turn.finish is FinishReason.STOP else None,
            cut=turn.finish is not FinishReason.STOP,
        )
        for answers in by_principal.values()
        for turn, current in _capped(answers, max_per_principal, dropped)
    ]
    return sorted(judgements, key=lambda j: (j.message_id, j.principal)), sorted(
        dropped, key=lambda d: (d.event_id, d.reason)
    )


def _current_feedback(
    feedback: Iterable[Feedback], dropped: list[Dropped]
) -> dict[tuple[str, str], _CurrentFeedback]:
    found: dict[tuple[str, str], _CurrentFeedback] = defaultdict(_CurrentFeedback)
    for event in _unique(feedback, dropped):
        if event.withheld:
            dropped.append(Dropped(event.event_id, Drop(event.withheld)))
            continue
        current = found[event.principal, event.message_id]
        if event.kind is FeedbackKind.RETRACTION:
            dropped.append(Dropped(event.event_id, Drop.RETRACTION))
            if event.retracts in (FeedbackKind.THUMB, FeedbackKind.CORRECTION):
                retracted: Feedback | None = getattr(current, event.retracts)
                if retracted is not None:
                    dropped.append(Dropped(retracted.event_id, Drop.RETRACTED))
                    setattr(current, event.retracts, None)
            continue
        earlier: Feedback | None = getattr(current, event.kind.value)
        if earlier is not None:
            dropped.append(Dropped(earlier.event_id, Drop.SUPERSEDED))
        setattr(current, event.kind.value, event)
    return {key: current for key, current in found.items() if current.events()}


def _drop_reason(turn: Turn | None, principal: str) -> Drop | None:
    """Return why all feedback of a user on a turn is dropped, None if it counts."""
    if turn is None:
        return Drop.UNJOINED
    if turn.erased:
        return Drop.ERASED
    if turn.withheld:
        return Drop(turn.withheld)
    if turn.principal != principal:
        return Drop.FOREIGN
    if turn.cached:
        # Cached answers are written once and rated repeatedly; one sample would count as many.
        return Drop.CACHED
    if (
        turn.finish in (FinishReason.INPUT_BLOCKED, FinishReason.OUTPUT_BLOCKED)
        or turn.guard_category
    ):
        return Drop.BLOCKED
    return Drop.EMPTY if not turn.answer.strip() or not turn.context else None


def _capped(
    rated: Sequence[tuple[Turn, _CurrentFeedback]], limit: int, dropped: list[Dropped]
) -> Sequence[tuple[Turn, _CurrentFeedback]]:
    if len(rated) <= limit:
        return rated
    # A hash order is stable and favours neither early nor late answers.
    shuffled = sorted(rated, key=lambda pair: hashlib.sha256(pair[0].message_id.encode()).digest())
    for _, current in shuffled[limit:]:
        dropped += [Dropped(event.event_id, Drop.OVER_CAP) for event in current.events()]
    return shuffled[:limit]


def _unique(events: Iterable[Event], dropped: list[Dropped]) -> list[Event]:
    """Return the events in order of acceptance, each event id once."""
    seen: set[str] = set()
    unique: list[Event] = []
    for event in sorted(events, key=lambda e: e.place):
        if event.event_id in seen:
            dropped.append(Dropped(event.event_id, Drop.DUPLICATE_EVENT))
            continue
        seen.add(event.event_id)
        unique.append(event)
    return unique
