"""Contexts that fit a number of tokens.

The rule is that of serving (services/session/context.py): system messages stay, then the newest
messages that fit, and the oldest of these is a user's. Both are tested with the same cases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from training.data.chat import Message


class PromptTokenizer(Protocol):
    """Tokenizer with a chat template."""

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]: ...


@dataclass(frozen=True)
class FittedPrompt:
    """Ids of a context that fits; `dropped` is the number of its oldest messages left out."""

    ids: tuple[int, ...]
    dropped: int = 0


def fit_context(
    chat: PromptTokenizer, messages: Sequence[Message], most_tokens: int
) -> FittedPrompt | None:
    """Return the prompt of a context, shortened to at most `most_tokens` tokens.

    None: the last message with the system messages is longer than that, so that serving would
    refuse the question.
    """
    ids = chat.prompt_ids(messages)
    if len(ids) <= most_tokens:
        return FittedPrompt(tuple(ids))
    system = [message for message in messages if message.role == "system"]
    talk = [message for message in messages if message.role != "system"]
    # The newest message is kept in any case; the other starts are messages of users.
    starts = [at for at, message in enumerate(talk[:-1]) if at and message.role == "user"]
    starts.append(len(talk) - 1)
    fitted: FittedPrompt | None = None
    first, end = 0, len(starts)
    while first < end:  # the oldest start that fits; later starts are shorter
        middle = (first + end) // 2
        ids = chat.prompt_ids([*system, *talk[starts[middle] :]])
        if len(ids) <= most_tokens:
            fitted, end = FittedPrompt(tuple(ids), starts[middle]), middle
        else:
            first = middle + 1
    return fitted
