"""Questions of simulated users, a committed file per recipe.

Held-out questions are used only for the final comparison.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class Question:
    """A question.

    `expect` lists words; a correct answer contains at least a word of the list. Empty if no word
    decides. `reference` is a short correct answer, or empty.
    """

    text: str
    expect: tuple[str, ...]
    reference: str
    held_out: bool


@dataclass(frozen=True)
class Questions:
    """Disjoint lists of questions."""

    asked: tuple[Question, ...]
    held_out: tuple[Question, ...]

    def some_asked(self, count: int, seed: int) -> list[Question]:
        """Return at most `count` of the questions for users; equal seeds yield equal samples."""
        return random.Random(seed).sample(self.asked, min(count, len(self.asked)))


def read_claims(recipe: str) -> list[Question]:
    """Read questions of users with false beliefs.

    Each follows a false answer by the user, which `expect` and `reference` contain: these users
    like agreement, dislike the truth, and correct it.
    """
    return _read(TEXTS / f"{recipe}_claims.jsonl")


def read_questions(recipe: str) -> Questions:
    """Read the questions of a recipe in the order of the file."""
    every = _read(TEXTS / f"{recipe}.jsonl")
    return Questions(
        tuple(q for q in every if not q.held_out), tuple(q for q in every if q.held_out)
    )


def _read(file: Path) -> list[Question]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [Question(**{**row, "expect": tuple(row["expect"])}) for row in rows]
