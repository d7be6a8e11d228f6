"""What the feedback log holds, as training reads it: turns, and what users said about them.

Places order events: (order of acceptance, sequence of the segment, offset). The first is 0 where
one process accepted; several replicas' logs arrive in any order, and there only the first tells
what a user said last.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.data.chat import Message
from training.data.served import Served

Place = tuple[int, int, int]


class Kind(StrEnum):
    """What a feedback event says."""

    THUMB = "thumb"
    CORRECTION = "correction"
    RETRACTION = "retraction"


class Finish(StrEnum):
    """Why an answer ended; only STOP is a complete one."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    INPUT_BLOCKED = "input_blocked"
    OUTPUT_BLOCKED = "output_blocked"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Closed(StrEnum):
    """Why the texts of an event may not be read."""

    NO_CONSENT = "no_consent"
    ERASED = "erased"


@dataclass(frozen=True)
class Erasure:
    """A user's data is gone. Numbers count up from 1; ids are unique for ever."""

    number: int
    principal: str
    id: str


@dataclass(frozen=True)
class Feedback:
    """One feedback event. `up` belongs to thumbs, `text` to corrections, `retracts` to retractions.
    A closed one has no text.
    """

    place: Place
    event_id: str
    principal: str
    message_id: str
    kind: Kind
    up: bool = False
    text: str = ""
    retracts: str = ""
    closed: Closed | None = None


@dataclass(frozen=True)
class Turn:
    """One finished turn: the exact context that the model was given, its answer as it was shown,
    and what was sampled for it, where that is known. A closed one has none of them.
    """

    place: Place
    event_id: str
    principal: str
    message_id: str
    context: tuple[Message, ...]
    answer: str
    finish: Finish
    model_version: str
    arm: str
    guard_category: str = ""
    erased: bool = False
    cached: bool = False
    served: Served | None = None
    closed: Closed | None = None
