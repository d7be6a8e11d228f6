"""From the raw log to judgements: what each user now thinks of each answer. Everything left out is
counted, with a reason.

De-duplicates by event id (the first counts), lets the last thumb stand, applies retractions, joins
by message id (feedback may come before its turn), and forgets erased turns and what is closed.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from training.data.chat import Message
from training.data.events import Closed, Feedback, Finish, Kind, Place, Turn
from training.data.served import Served


class Drop(StrEnum):
    """Why an event is not in the snapshot."""

    DUPLICATE_EVENT = "duplicate_event"
    SUPERSEDED = "superseded_by_later_feedback"
    RETRACTED = "retracted"
    RETRACTION = "retraction_applied"
    UNJOINED = "turn_not_yet_in_log"
    ERASED = "turn_erased"
    NO_CONSENT = Closed.NO_CONSENT.value
    PRINCIPAL_ERASED = Closed.ERASED.value
    FOREIGN = "rated_by_another_user"
    CACHED = "cached_answer"
    BLOCKED = "blocked_by_guard"
    INCOMPLETE = "answer_incomplete"
    EMPTY = "empty_text"
    OVER_CAP = "over_cap_of_user"


@dataclass(frozen=True)
class Judgement:
    """What one user says about one answer: a thumb, a correction, or both."""

    message_id: str
    principal: str
    model_version: str
    arm: str
    context: tuple[Message, ...]
    answer: str
    up: bool | None
    correction: str | None
    served: Served | None = None


@dataclass(frozen=True)
class Dropped:
    """One event that does not count, and why. Holds no text."""

    event_id: str
    reason: Drop


@dataclass
class _Standing:
    """What is left of one user's events about one message."""

    thumb: Feedback | None = None
    correction: Feedback | None = None

    def events(self) -> list[Feedback]:
        return [event for event in (self.thumb, self.correction) if event is not None]


@dataclass
class _Ledger:
    dropped: list[Dropped] = field(default_factory=list)

    def drop(self, event_id: str, reason: Drop) -> None:
        self.dropped.append(Dropped(event_id, reason))


class _Placed(Protocol):
    @property
    def place(self) -> Place: ...
    @property
    def event_id(self) -> str: ...


Event = TypeVar("Event", bound=_Placed)


def judge(
    feedback: Iterable[Feedback], turns: Iterable[Turn], max_per_principal: int
) -> tuple[list[Judgement], list[Dropped]]:
    """Judgements in the order of their answers' ids, and every event that does not count.

    Args:
        max_per_principal: answers that one user may rate; which ones count is decided by a hash, so
            neither the first nor the last are favoured.
    """
    ledger = _Ledger()
    known = _known_turns(turns, ledger)
    kept: dict[str, list[tuple[Turn, _Standing]]] = defaultdict(list)
    for (principal, message_id), standing in _standing(feedback, ledger).items():
        turn = known.get(message_id)
        reason = _refusal(turn, principal, standing)
        if turn is None or reason is not None:
            for event in standing.events():
                ledger.drop(event.event_id, reason or Drop.UNJOINED)
            continue
        kept[principal].append((turn, standing))
    judgements = [
        _judgement(turn, standing)
        for principal in sorted(kept)
        for turn, standing in _capped(kept[principal], max_per_principal, ledger)
    ]
    return sorted(judgements, key=lambda j: (j.message_id, j.principal)), sorted(
        ledger.dropped, key=lambda d: (d.event_id, d.reason)
    )


def _known_turns(turns: Iterable[Turn], ledger: _Ledger) -> dict[str, Turn]:
    """The last revision of every answer; an erasure holds whatever comes after it. Closed ones
    stay: feedback on them is closed too.
    """
    known: dict[str, Turn] = {}
    for turn in _unique(turns, ledger):
        if turn.closed:
            ledger.drop(turn.event_id, Drop(turn.closed))
        earlier = known.get(turn.message_id)
        if earlier is None or not earlier.erased:
            known[turn.message_id] = turn
    return known


def _standing(feedback: Iterable[Feedback], ledger: _Ledger) -> dict[tuple[str, str], _Standing]:
    found: dict[tuple[str, str], _Standing] = defaultdict(_Standing)
    for event in _unique(feedback, ledger):
        if event.closed:
            ledger.drop(event.event_id, Drop(event.closed))
            continue
        standing = found[event.principal, event.message_id]
        if event.kind is Kind.RETRACTION:
            _retract(standing, event, ledger)
            continue
        earlier: Feedback | None = getattr(standing, event.kind.value)
        if earlier is not None:
            ledger.drop(earlier.event_id, Drop.SUPERSEDED)
        setattr(standing, event.kind.value, event)
    return {key: standing for key, standing in found.items() if standing.events()}


def _retract(standing: _Standing, event: Feedback, ledger: _Ledger) -> None:
    ledger.drop(event.event_id, Drop.RETRACTION)
    if event.retracts not in (Kind.THUMB, Kind.CORRECTION):
        return
    earlier: Feedback | None = getattr(standing, event.retracts)
    if earlier is not None:
        ledger.drop(earlier.event_id, Drop.RETRACTED)
        setattr(standing, event.retracts, None)


def _refusal(turn: Turn | None, principal: str, standing: _Standing) -> Drop | None:
    if turn is None:
        return Drop.UNJOINED
    if turn.erased:
        return Drop.ERASED
    if turn.closed:
        return Drop(turn.closed)
    if turn.principal != principal:
        return Drop.FOREIGN
    if turn.cached:
        # Written once and rated again and again: one sample would count as many.
        return Drop.CACHED
    if turn.finish in (Finish.INPUT_BLOCKED, Finish.OUTPUT_BLOCKED) or turn.guard_category:
        return Drop.BLOCKED
    if turn.finish is not Finish.STOP:
        return Drop.INCOMPLETE
    if (
        not turn.answer.strip()
        or not turn.context
        or (standing.correction and not standing.correction.text.strip())
    ):
        return Drop.EMPTY
    return None


def _capped(
    rated: Sequence[tuple[Turn, _Standing]], limit: int, ledger: _Ledger
) -> Sequence[tuple[Turn, _Standing]]:
    if len(rated) <= limit:
        return rated
    shuffled = sorted(rated, key=lambda pair: hashlib.sha256(pair[0].message_id.encode()).digest())
    for _, standing in shuffled[limit:]:
        for event in standing.events():
            ledger.drop(event.event_id, Drop.OVER_CAP)
    return shuffled[:limit]


def _judgement(turn: Turn, standing: _Standing) -> Judgement:
    return Judgement(
        message_id=turn.message_id,
        principal=turn.principal,
        model_version=turn.model_version,
        arm=turn.arm,
        context=turn.context,
        answer=turn.answer,
        up=None if standing.thumb is None else standing.thumb.up,
        correction=None if standing.correction is None else standing.correction.text,
        served=turn.served,
    )


def _unique(events: Iterable[Event], ledger: _Ledger) -> list[Event]:
    """In the order of acceptance, each event id once."""
    seen: set[str] = set()
    unique: list[Event] = []
    for event in sorted(events, key=lambda e: e.place):
        if event.event_id in seen:
            ledger.drop(event.event_id, Drop.DUPLICATE_EVENT)
            continue
        seen.add(event.event_id)
        unique.append(event)
    return unique
