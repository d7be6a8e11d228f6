"""What happens in a turn: Started, Enhanced if the text changed, deltas and verdicts, Usage,
Completed.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from services.gateway.guard import Action
from services.gateway.request import Task


class FinishReason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    INPUT_BLOCKED = "input_blocked"
    OUTPUT_BLOCKED = "output_blocked"
    FAILED = "failed"


@dataclass(frozen=True)
class TextEdit:
    """One change of the enhancer; start and end count code points of the original."""

    start: int
    end: int
    replacement: str
    kind: str


@dataclass(frozen=True)
class Prompt:
    """A user's message: as typed, and as the model gets it."""

    original_text: str
    text: str
    edits: tuple[TextEdit, ...] = ()

    @property
    def changed(self) -> bool:
        """True if the two texts differ."""
        return self.text != self.original_text

    @property
    def texts(self) -> tuple[str, ...]:
        """What the guard must judge: both texts, once each."""
        return (self.original_text, self.text) if self.changed else (self.text,)


@dataclass(frozen=True)
class Started:
    """Ids and versions, before any text."""

    conversation_id: str
    user_message_id: str
    model_version: str = ""
    arm: str = ""
    policy_version: str = ""
    task: Task = Task.UNSPECIFIED
    cached: bool = False


@dataclass(frozen=True)
class Enhanced:
    """The user's text was rewritten."""

    prompt: Prompt


@dataclass(frozen=True)
class TextDelta:
    """More of the answer, released by the guard; never empty."""

    text: str


@dataclass(frozen=True)
class Verdict:
    """A decision of the guard other than plain allowance; stage is "input" or "output"."""

    stage: str
    action: Action
    category: str


@dataclass(frozen=True)
class Usage:
    """Token counts of the turn; `cached`: of when the answer was written, this turn used none."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False


@dataclass(frozen=True)
class Completed:
    """The end; the hash is of the whole answer's UTF-8."""

    finish_reason: FinishReason
    text_sha256: str


Event = Started | Enhanced | TextDelta | Verdict | Usage | Completed


@dataclass(frozen=True)
class TurnEvent:
    """An event in its place: 1, 2, 3 … within the answer."""

    sequence: int
    message_id: str
    event: Event


def sha256_of(text: str) -> str:
    """Hexadecimal SHA-256 of a text's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
