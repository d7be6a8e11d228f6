"""Events of a turn: Started, Enhanced if the text changed, TextDelta, Verdict, Usage, Completed."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from services.gateway.answering.guard import Action
from services.gateway.turns.request import Task


class FinishReason(StrEnum):
    """Reason for the end of an answer."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    INPUT_BLOCKED = "input_blocked"
    OUTPUT_BLOCKED = "output_blocked"
    FAILED = "failed"


@dataclass(frozen=True)
class TextEdit:
    """One correction of the enhancer. `start` and `end` count code points of the original text."""

    start: int
    end: int
    replacement: str
    kind: str


@dataclass(frozen=True)
class Prompt:
    """A user's message, as typed and as given to the model."""

    original_text: str
    text: str
    edits: tuple[TextEdit, ...] = ()

    @property
    def changed(self) -> bool:
        """True if the two texts differ."""
        return self.text != self.original_text

    @property
    def texts(self) -> tuple[str, ...]:
        """Distinct texts that the guard must check."""
        return (self.original_text, self.text) if self.changed else (self.text,)


@dataclass(frozen=True)
class Started:
    """First event of an answer, with ids and versions."""

    conversation_id: str
    user_message_id: str
    model_version: str = ""
    arm: str = ""
    policy_version: str = ""
    task: Task = Task.UNSPECIFIED
    cached: bool = False


@dataclass(frozen=True)
class Enhanced:
    """The enhancer changed the user's text."""

    prompt: Prompt


@dataclass(frozen=True)
class TextDelta:
    """Part of the answer, released by the guard. Never empty."""

    text: str


@dataclass(frozen=True)
class Verdict:
    """Verdict of the guard other than "allow". `stage` is "input" or "output"."""

    stage: str
    action: Action
    category: str


@dataclass(frozen=True)
class Usage:
    """Token counts of the answer. A cached answer has the counts of the original answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False


@dataclass(frozen=True)
class Completed:
    """Last event of an answer, with the SHA-256 of the whole text in UTF-8."""

    finish_reason: FinishReason
    text_sha256: str


Event = Started | Enhanced | TextDelta | Verdict | Usage | Completed


@dataclass(frozen=True)
class TurnEvent:
    """An event with its sequence number, which counts from 1 within the answer."""

    sequence: int
    message_id: str
    event: Event


def sha256_of(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
