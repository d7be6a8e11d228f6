"""What simulated people ask: one committed file a recipe. Held-out questions are for the judgement
alone: nobody asks them before.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"


@dataclass(frozen=True)
class Question:
    """`expect`: words of which a right answer holds one; empty where no word decides. `reference`:
    a short right answer, or empty.
    """

    text: str
    expect: tuple[str, ...]
    reference: str
    held_out: bool


@dataclass(frozen=True)
class Questions:
    """Two lists without a question in common."""

    asked: tuple[Question, ...]
    held_out: tuple[Question, ...]

    def some_asked(self, count: int, seed: int) -> list[Question]:
        """So many of those that may be asked, or all; the same ones for the same seed."""
        return random.Random(seed).sample(self.asked, min(count, len(self.asked)))


def read_questions(recipe: str) -> Questions:
    """The questions of a recipe, in the order of its file."""
    lines = (TEXTS / f"{recipe}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    every = [Question(**{**row, "expect": tuple(row["expect"])}) for row in rows]
    return Questions(
        tuple(q for q in every if not q.held_out), tuple(q for q in every if q.held_out)
    )
