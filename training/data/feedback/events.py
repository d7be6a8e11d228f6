"""Events of the feedback log as training reads them: turns and the feedback on them.

Events are ordered by their place (acceptance order, segment sequence, offset). The acceptance order
is 0 for logs of a single process. Logs of several replicas arrive in any order, and only the
acceptance order identifies the latest feedback.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.data.chat import Message
from training.data.feedback.sources import Source
from training.data.served import Served

LogPosition = tuple[int, int, int]


class FeedbackKind(StrEnum):
    """Kind of a feedback event."""

    THUMB = "thumb"
    CORRECTION = "correction"
    RETRACTION = "retraction"
    RANKING = "ranking"


class FinishReason(StrEnum):
    """Finish reason of an answer; only STOP marks a complete answer."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    INPUT_BLOCKED = "input_blocked"
    OUTPUT_BLOCKED = "output_blocked"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Withheld(StrEnum):
    """Reason for withholding the texts of an event."""

    NO_CONSENT = "no_consent"
    ERASED = "erased"


@dataclass(frozen=True)
class Erasure:
    """Request to erase the data of one principal. Numbers count up from 1; ids are never reused."""

    number: int
    principal: str
    id: str


@dataclass(frozen=True)
class RankedAnswer:
    """Answer in a ranking: a turn by `message_id`, or a `text` of the event."""

    rank: int
    message_id: str = ""
    text: str = ""
    model_version: str = ""


@dataclass(frozen=True)
class Feedback:
    """One feedback event.

    `up` belongs to thumbs, `text` to corrections, `retracts` to retractions, `ranked` and `source`
    to rankings. `rater` is the reviewer who gave it, empty for the user. Withheld events have no
    text.
    """

    place: LogPosition
    event_id: str
    principal: str
    message_id: str
    kind: FeedbackKind
    up: bool = False
    text: str = ""
    retracts: str = ""
    rater: str = ""
    ranked: tuple[RankedAnswer, ...] = ()
    source: Source = Source.RANKING
    withheld: Withheld | None = None


@dataclass(frozen=True)
class Turn:
    """One finished turn of a conversation.

    `context` is the exact context of the model, `answer` the displayed text, `served` the sample if
    known. Withheld turns have none of the three. `finish_us` is the end of the answer, or the
    deletion of an erased turn, in microseconds since 1970.
    """

    place: LogPosition
    event_id: str
    principal: str
    message_id: str
    context: tuple[Message, ...]
    answer: str
    finish: FinishReason
    model_version: str
    arm: str
    guard_category: str = ""
    erased: bool = False
    cached: bool = False
    served: Served | None = None
    withheld: Withheld | None = None
    tenant: str = ""
    conversation_id: str = ""
    task: str = ""
    finish_us: int = 0
