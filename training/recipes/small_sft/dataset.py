"""Assemble the training texts of the recipe.

Texts are drawn at random and partly misspelt, without held-out questions and evaluation data.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.recipes.small_sft.overlap import overlapping, read_evaluation_texts
from training.recipes.small_sft.sources import (
    Example,
    make_capitals,
    make_sums,
    read_encyclopedia,
    read_questions,
    words,
)

FOLDER = Path(__file__).parent
HAND_WRITTEN = "hand_written"
MIN_DAMAGED_LETTERS = 4  # a typing error in a shorter word often gives another word


@dataclass(frozen=True)
class DatasetConfig:
    """Sizes before overlaps are dropped.

    hand_written_copies: number of copies of our own conversations per epoch; later copies are
    misspelt more often.
    """

    articles: int = 350
    sums: int = 100
    hand_written_copies: int = 2
    misspelt_share: float = 0.12
    misspelt_copies_share: float = 0.35
    seed: int = 20261124


def build_dataset(config: DatasetConfig, packages: Path) -> tuple[list[Example], dict[str, int]]:
    """Return the shuffled examples, and counts by source and of dropped overlaps.

    Args:
        packages: folder with the packages of locks/small_sft_texts.txt.
    """
    rng = random.Random(config.seed)
    external = [
        *read_encyclopedia(packages, config.articles, rng),
        *read_questions(packages, rng),
        *make_sums(config.sums, rng),
        *make_capitals(rng),
    ]
    drawn = [_maybe_misspelt(example, config.misspelt_share, rng) for example in external]
    own = read_hand_written()
    for _ in range(config.hand_written_copies - 1):
        drawn += [_maybe_misspelt(example, config.misspelt_copies_share, rng) for example in own]
    candidates = without_held_out([*drawn, *own])
    dropped = overlapping(candidates, read_evaluation_texts(packages))
    examples = [example for index, example in enumerate(candidates) if index not in dropped]
    rng.shuffle(examples)
    return examples, {**Counter(e.source for e in examples), "dropped_for_overlap": len(dropped)}


def read_hand_written() -> list[Example]:
    """Return an example for every answer of the conversations in hand_written.jsonl."""
    lines = (FOLDER / "hand_written.jsonl").read_text().splitlines()
    return [
        Example(tuple(turns[:end]), turns[end], HAND_WRITTEN)
        for turns in map(json.loads, lines)
        for end in range(1, len(turns), 2)
    ]


def newcomer_conversations() -> list[list[str]]:
    """Return the first questions of new users, one conversation per line.

    The model is evaluated on these questions and never trained on them.
    """
    return [
        json.loads(line) for line in (FOLDER / "newcomer_questions.jsonl").read_text().splitlines()
    ]


def without_held_out(examples: Iterable[Example]) -> list[Example]:
    """Drop conversations in which a user message is a question of new users."""
    held = {
        words(question) for conversation in newcomer_conversations() for question in conversation
    }
    return [
        example for example in examples if not held & {words(turn) for turn in example.turns[::2]}
    ]


def write_dataset(examples: Sequence[Example], path: Path) -> str:
    """Write JSON lines for the SFT stage; return their SHA-256."""
    text = "".join(example.line() + "\n" for example in examples)
    path.write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def _maybe_misspelt(example: Example, share: float, rng: random.Random) -> Example:
    if rng.random() >= share:
        return example
    return replace(example, turns=(*example.turns[:-1], misspell(example.turns[-1], rng)))


def misspell(text: str, rng: random.Random) -> str:
    """Return the text in lower case without closing punctuation and with typing errors.

    About a quarter of the longer words have two letters swapped, a letter missing or a letter
    doubled. Misspelt copies of questions give robustness against typing errors.
    """
    misspelt = []
    for word in text.lower().rstrip("?.!").split():
        if rng.random() < 0.25 and len(word) >= MIN_DAMAGED_LETTERS and word.isalpha():
            at = rng.randrange(1, len(word) - 1)
            damaged = {
                "swap": word[:at] + word[at + 1] + word[at] + word[at + 2 :],
                "loss": word[:at] + word[at + 1 :],
                "doubling": word[: at + 1] + word[at:],
            }
            word = damaged[rng.choice(sorted(damaged))]
        misspelt.append(word)
    return " ".join(misspelt)
