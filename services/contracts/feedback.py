"""Values of feedback: thumb, correction, retraction, implicit signal, ranking of answers."""

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


class RankingSource(StrEnum):
    """Origin of a ranking."""

    ARENA = "arena"
    REVIEW = "review"


@dataclass(frozen=True)
class RankedAnswer:
    """Answer in a ranking: a stored one with `message_id`, or one of the event with `text`.

    Ranks begin at 1 for the best answer. Equal ranks are ties.
    """

    rank: int
    message_id: str = ""
    text: str = ""
    model_version: str = ""


@dataclass(frozen=True)
class Ranking:
    """Order of several answers to one question; `source` is the name of a RankingSource."""

    answers: tuple[RankedAnswer, ...]
    source: str


FeedbackValue = Thumb | Correction | Retraction | Signal | Ranking
