"""A training example of the recipe, and its row for the SFT stage."""

import json
import re
from dataclasses import dataclass

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Example:
    """A conversation that ends with a user message, and the answer to train on.

    `source` is a row of LICENCES.md.
    """

    turns: tuple[str, ...]  # user, assistant, … user
    response: str
    source: str

    def line(self) -> str:
        """Return the row of this example for the SFT stage."""
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(self.turns)]
        return json.dumps({"messages": messages, "response": self.response}, ensure_ascii=False)


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text in lower case, for comparisons of texts."""
    return tuple(_WORD.findall(text.lower()))
