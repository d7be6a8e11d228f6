"""One training example of the recipe, and the line that the SFT stage reads."""

import json
import re
from dataclasses import dataclass

_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Example:
    """A conversation that ends with the user's turn, and the answer to learn. `source` is a row of
    LICENCES.md.
    """

    turns: tuple[str, ...]  # user, assistant, … user
    response: str
    source: str

    def line(self) -> str:
        """The example as the SFT stage reads it."""
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(self.turns)]
        return json.dumps({"messages": messages, "response": self.response}, ensure_ascii=False)


def words(text: str) -> tuple[str, ...]:
    """A text as lower-case words: what counts when two texts are compared."""
    return tuple(_WORD.findall(text.lower()))
