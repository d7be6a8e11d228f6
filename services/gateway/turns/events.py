"""Events of a turn: Started, Enhanced if the text changed, TextDelta, Verdict, Usage, Completed."""

import hashlib
from dataclasses import dataclass

from services.contracts.chat import Action, FinishReason, Prompt, Task, Usage


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
