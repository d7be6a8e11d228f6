"""Keys of contexts and answers, by which equal texts are recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from training.data.chat import Message


def prompt_key(context: Iterable[Message]) -> str:
    """Return the id of a context, independent of case and spacing."""
    normal = [(message.role, " ".join(message.content.split()).casefold()) for message in context]
    return hashlib.sha256(json.dumps(normal).encode()).hexdigest()[:16]


def opening_key(context: Sequence[Message]) -> str:
    """Return the id of a context up to its first message of a user.

    All turns and branches of a conversation have the same opening, until the oldest messages no
    longer fit the context.
    """
    roles = [message.role for message in context]
    return prompt_key(context[: roles.index("user") + 1] if "user" in roles else context)


def text_key(text: str) -> str:
    """Return a text without trailing spaces and surrounding blank lines.

    Line breaks and indentation remain, because they are part of code, lists and poems.
    """
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
