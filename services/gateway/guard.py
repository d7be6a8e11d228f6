"""The guard as the chat path sees it. Whoever gets no ruling shows no text."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Action(StrEnum):
    """What the guard wants done with a text."""

    ALLOW = "allow"
    REDACT = "redact"
    BLOCK = "block"


@dataclass(frozen=True)
class InputRuling:
    """The decision on a user's message."""

    action: Action
    category: str
    policy_version: str
    rejection_text: str


@dataclass(frozen=True)
class OutputRuling:
    """The decision on pending text: what may be shown of it, and how many characters at its end
    stay held.
    """

    action: Action
    category: str
    release: str
    held_characters: int
    rejection_text: str


class OutputGuard(Protocol):
    """Judges answers."""

    async def check_output(
        self, prompt: str, released_tail: str, pending: str, *, final: bool
    ) -> OutputRuling:
        """Raises: ServiceError. Then nothing of `pending` may be shown."""


class Guard(OutputGuard, Protocol):
    """Judges what comes in, and what goes out."""

    async def check_input(self, texts: tuple[str, ...]) -> InputRuling:
        """The strictest ruling over the texts. Raises: ServiceError. Then nothing may be generated."""
