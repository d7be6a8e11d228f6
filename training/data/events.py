"""What the feedback log holds, as training reads it: turns, and what users said about them.

Positions order events: (topic id, partition, offset). A conversation is one partition's, so its order is the true one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.data.chat import Message

Position = tuple[str, int, int]


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


@dataclass(frozen=True)
class Feedback:
    """One feedback event. `up` belongs to thumbs, `text` to corrections, `retracts` to retractions."""

    position: Position
    event_id: str
    principal: str
    message_id: str
    kind: Kind
    up: bool = False
    text: str = ""
    retracts: str = ""


@dataclass(frozen=True)
class Turn:
    """One finished turn: the exact context that the model was given, and its answer as it was shown."""

    position: Position
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
