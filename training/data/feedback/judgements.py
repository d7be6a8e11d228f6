"""Conversion of the raw feedback log to judgements, the current rating per person and answer.

The person is the user of the conversation, or a reviewer.

Events are de-duplicated by event id (the first counts), the last thumb wins, retractions are
applied, and feedback is joined with turns by message id (feedback may arrive before its turn).
Erased turns, withheld events and answers of external models are removed. Every dropped event is
counted with a reason.

Thumbs on answers that did not end by themselves (token limit, user's stop, failure) are dropped,
because they would rate the length, and such answers must not be imitated. Corrections of them count
without the answer.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from training.data.chat import Message
from training.data.feedback.drops import Drop, Dropped, unreadable_reason
from training.data.feedback.events import (
    Feedback,
    FeedbackKind,
    FinishReason,
    LogPosition,
    Turn,
)
from training.data.feedback.external import is_untrained
from training.data.feedback.rankings import Ranking, is_blocked, ranking_of
from training.data.served import Served


@dataclass(frozen=True)
class Judgement:
    """Rating of one answer by one person: a thumb, a correction, or both.

    `principal` is the user of the conversation, `rater` the reviewer who gave the rating, empty if
    the user did. `cut`: the answer did not end by itself, so only the correction is used.
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
    rater: str = ""

    @property
    def giver(self) -> str:
        """Principal who gave the rating."""
        return self.rater or self.principal


GivenFeedback = Judgement | Ranking
"""Feedback of one person that training learns from."""


@dataclass
class CurrentFeedback:
    """Current feedback of one person on one message."""

    thumb: Feedback | None = None
    correction: Feedback | None = None
    ranking: Feedback | None = None

    def events(self) -> list[Feedback]:
        """Return the events that form a judgement."""
        return [event for event in (self.thumb, self.correction) if event is not None]


@dataclass(frozen=True)
class _Given:
    """Usable feedback of one person, with its events."""

    given: GivenFeedback
    events: Sequence[Feedback]


class _LogEvent(Protocol):
    @property
    def place(self) -> LogPosition: ...
    @property
    def event_id(self) -> str: ...


Event = TypeVar("Event", bound=_LogEvent)


def judge(
    feedback: Iterable[Feedback],
    turns: Iterable[Turn],
    max_per_principal: int,
    trained_external: Collection[str] = (),
    quarantined: Collection[str] = (),
) -> tuple[list[GivenFeedback], list[Dropped]]:
    """Return judgements and rankings ordered by message id, and all dropped events.

    Args:
        max_per_principal: limit of rated answers and rankings per person who gave them. A hash
            selects them, so neither the first nor the last are favoured.
        trained_external: external models whose answers may train.
        quarantined: accounts whose feedback is left out until a person decides.
    """
    dropped: list[Dropped] = []
    known = last_revisions(turns, dropped)
    by_giver: dict[str, list[_Given]] = defaultdict(list)
    for (principal, rater, message_id), current in current_feedback(feedback, dropped).items():
        usable = by_giver[rater or principal]
        if (rater or principal) in quarantined:
            events = [*current.events(), *([current.ranking] if current.ranking else [])]
            dropped += [Dropped(event.event_id, Drop.QUARANTINED) for event in events]
            continue
        if current.ranking:
            ranking = ranking_of(current.ranking, known, trained_external)
            if isinstance(ranking, Ranking):
                usable.append(_Given(ranking, [current.ranking]))
            else:
                dropped.append(Dropped(current.ranking.event_id, ranking))
        if not current.events():
            continue
        rated = known.get(message_id)
        reason = _drop_reason(rated, principal, trained_external)
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
            usable.append(_Given(_judgement(rated, current, rater), current.events()))
    given = [
        one.given
        for of_giver in by_giver.values()
        for one in _capped(of_giver, max_per_principal, dropped)
    ]
    return sorted(given, key=lambda g: (g.message_id, g.principal, g.rater)), sorted(
        dropped, key=lambda d: (d.event_id, d.reason)
    )


def _judgement(turn: Turn, current: CurrentFeedback, rater: str) -> Judgement:
    return Judgement(
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
        rater=rater,
    )


def last_revisions(turns: Iterable[Turn], dropped: list[Dropped]) -> dict[str, Turn]:
    """Return the last revision of every answer by message id; append what is dropped.

    An erasure overrides later revisions. Withheld turns are included, because feedback on them is
    withheld too.
    """
    known: dict[str, Turn] = {}
    for turn in _unique(turns, dropped):
        if turn.withheld:
            dropped.append(Dropped(turn.event_id, Drop(turn.withheld)))
        earlier = known.get(turn.message_id)
        if earlier is None or not earlier.erased:
            known[turn.message_id] = turn
    return known


def current_feedback(
    feedback: Iterable[Feedback], dropped: list[Dropped]
) -> dict[tuple[str, str, str], CurrentFeedback]:
    """Return the current feedback by user, rater and message; append what is dropped."""
    found: dict[tuple[str, str, str], CurrentFeedback] = defaultdict(CurrentFeedback)
    for event in _unique(feedback, dropped):
        if event.withheld:
            dropped.append(Dropped(event.event_id, Drop(event.withheld)))
            continue
        current = found[event.principal, event.rater, event.message_id]
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
    return dict(found)


def _drop_reason(
    turn: Turn | None, principal: str, trained_external: Collection[str]
) -> Drop | None:
    """Return why all ratings of a user's turn are dropped, None if they count."""
    if turn is None:
        return Drop.UNJOINED
    if reason := unreadable_reason(turn, principal):
        return reason
    if is_untrained(turn.model_version, trained_external):
        # A correction is dropped too, because it repeats the answer in large part.
        return Drop.EXTERNAL
    if turn.cached:
        # Cached answers are written once and rated repeatedly; one sample would count as many.
        return Drop.CACHED
    if is_blocked(turn):
        return Drop.BLOCKED
    return Drop.EMPTY if not turn.answer.strip() or not turn.context else None


def _capped(given: Sequence[_Given], limit: int, dropped: list[Dropped]) -> Sequence[_Given]:
    if len(given) <= limit:
        return given
    # A hash order is stable and favours neither early nor late answers.
    shuffled = sorted(given, key=lambda one: hashlib.sha256(one.given.message_id.encode()).digest())
    for one in shuffled[limit:]:
        dropped += [Dropped(event.event_id, Drop.OVER_CAP) for event in one.events]
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
