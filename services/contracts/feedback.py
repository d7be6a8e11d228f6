"""Values of feedback on an answer: thumb, correction, retraction, implicit signal."""

from dataclasses import dataclass
from enum import StrEnum


class Subject(StrEnum):
    """Kind of feedback that a retraction withdraws."""

    THUMB = "thumb"
    CORRECTION = "correction"


@dataclass(frozen=True)
class Thumb:
    """Vote on an answer with optional reasons and comment."""

    up: bool
    reasons: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True)
class Correction:
    """Better answer written by the user."""

    text: str


@dataclass(frozen=True)
class Retraction:
    """Withdrawal of the user's thumb or correction."""

    subject: str


class SignalKind(StrEnum):
    """Implicit signal that a client reports."""

    COPIED = "copied"


@dataclass(frozen=True)
class Signal:
    """Implicit signal on an answer; counted by version, never shown and never a reward."""

    kind: str


FeedbackValue = Thumb | Correction | Retraction | Signal
