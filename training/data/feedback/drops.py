"""Reasons for leaving events of the log out of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.data.feedback.events import Turn, Withheld


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
    EXTERNAL = "answer_of_external_model"
    OTHER_CONTEXT = "answer_to_another_context"
    OVER_CAP = "over_cap_of_user"
    QUARANTINED = "account_in_quarantine"


@dataclass(frozen=True)
class Dropped:
    """One dropped event with the reason; holds no text."""

    event_id: str
    reason: Drop


def unreadable_reason(turn: Turn, principal: str) -> Drop | None:
    """Return why no text of a turn may be used for this user's feedback, None if they may."""
    if turn.erased:
        return Drop.ERASED
    if turn.withheld:
        return Drop(turn.withheld)
    return Drop.FOREIGN if turn.principal != principal else None
