"""The guard as the chat path uses it. Without a verdict no text is shown (fail closed)."""

from dataclasses import dataclass
from typing import Protocol

from services.contracts.chat import Action


@dataclass(frozen=True)
class InputVerdict:
    """Verdict on a user's message."""

    action: Action
    category: str
    policy_version: str
    rejection_text: str


@dataclass(frozen=True)
class OutputVerdict:
    """Verdict on pending text, with the text to release and the number of characters to hold."""

    action: Action
    category: str
    release: str
    held_characters: int
    rejection_text: str


class OutputGuard(Protocol):
    """Checks answers before release."""

    async def check_output(
        self, prompt: str, released_tail: str, pending: str, *, final: bool
    ) -> OutputVerdict:
        """Check pending text in the context of the prompt and the text released before.

        Raises:
            ServiceError: The guard failed. No character of `pending` may be shown.
        """


class Guard(OutputGuard, Protocol):
    """Checks inputs and outputs."""

    async def check_input(self, texts: tuple[str, ...]) -> InputVerdict:
        """Return the strictest verdict over the texts.

        Raises:
            ServiceError: The guard failed. No answer may be generated.
        """
