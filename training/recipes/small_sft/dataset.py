"""Assemble the training texts of the recipe.

Texts are drawn at random and partly misspelt, without held-out questions and evaluation data.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from training.probes.items import TEXTS as PROBES
from training.recipes.recipe import TEXTS
from training.recipes.small_sft.contact import read_contact_questions
from training.recipes.small_sft.overlap import overlapping, read_evaluation_texts
from training.recipes.small_sft.sources import Example, read_encyclopedia, read_questions, words
from training.recipes.small_sft.tables import (
    GENERATED,
    make_capitals,
    make_phrases,
    make_sums,
)

FOLDER = Path(__file__).parent
HAND_WRITTEN, FIRST_CONTACT = "hand_written", "first_contact"
OWN_FILES = {HAND_WRITTEN: "hand_written.jsonl", FIRST_CONTACT: "first_contact_texts.jsonl"}
MIN_DAMAGED_LETTERS = 4  # a typing error in a shorter word often gives another word
# Longer messages contain a text to work on, which stays as it is.
MAX_MISSPELT_CHARACTERS = 120


@dataclass(frozen=True)
class DatasetConfig:
    """Sizes before overlaps are dropped, and shares of misspelt questions.

    Attributes:
        articles: examples from the encyclopedia
        sums: generated sums
        misspelt_share: share of the generated and external questions that is misspelt
        misspelt_copies: share of our own conversations that is shown a second time, misspelt
        max_generated_share: limit of the share of generated examples (GENERATED)
    """

    articles: int = 60
    sums: int = 450
    misspelt_share: float = 0.12
    misspelt_copies: float = 0.15
    max_generated_share: float = 0.35
    seed: int = 20261124


def build_dataset(config: DatasetConfig, packages: Path) -> tuple[list[Example], dict[str, int]]:
    """Return the shuffled examples, and counts by source and of dropped overlaps.

    Held-out questions are dropped before some are misspelt, so that no misspelt copy remains.

    Args:
        packages: folder with the packages of locks/small_sft_texts.txt.

    Raises:
        ValueError: the share of generated examples is above its limit.
    """
    rng = random.Random(config.seed)
    external = without_held_out(
        [
            *read_encyclopedia(packages, config.articles, rng),
            *read_questions(packages, rng),
            *make_sums(config.sums, rng),
            *make_phrases(rng),
            *make_capitals(rng),
        ]
    )
    own = without_held_out(read_own())
    copied = [example for example in own if rng.random() < config.misspelt_copies]
    candidates = [
        *(_maybe_misspelt(example, config.misspelt_share, rng) for example in external),
        *own,
        *(_maybe_misspelt(example, 1.0, rng) for example in copied),
    ]
    evaluation = chain(held_out_questions(), read_evaluation_texts(packages))
    dropped = overlapping(candidates, evaluation)
    examples = [example for index, example in enumerate(candidates) if index not in dropped]
    counts = Counter(example.source for example in examples)
    generated = sum(counts[source] for source in GENERATED) / len(examples)
    if generated > config.max_generated_share:
        raise ValueError(
            f"generated examples: a share of {generated:.2f}, "
            f"the limit is {config.max_generated_share}"
        )
    rng.shuffle(examples)
    return examples, {**counts, "dropped_for_overlap": len(dropped)}


def read_own() -> list[Example]:
    """Return an example for every answer of our own conversations.

    If both files answer the same question, the answer in first_contact_texts.jsonl is kept.
    """
    found = [example for source in OWN_FILES for example in _conversations(source)]
    newer = {
        tuple(map(words, example.turns)) for example in found if example.source == FIRST_CONTACT
    }
    return [
        example
        for example in found
        if example.source == FIRST_CONTACT or tuple(map(words, example.turns)) not in newer
    ]


def _conversations(source: str) -> list[Example]:
    lines = (FOLDER / OWN_FILES[source]).read_text().splitlines()
    return [
        Example(tuple(turns[:end]), turns[end], source)
        for turns in map(json.loads, lines)
        for end in range(1, len(turns), 2)
    ]


def newcomer_conversations() -> list[list[str]]:
    """Return the first questions of new users, one conversation per line.

    The manifest has the model's answers to them, and the model is never trained on them.
    """
    return [
        json.loads(line) for line in (FOLDER / "newcomer_questions.jsonl").read_text().splitlines()
    ]


def held_out_questions() -> list[str]:
    """Return all questions that are never trained on.

    These are the questions of new users, those of first_contact.py, and those of the probes with
    which versions are evaluated.
    """
    conversations = [
        [
            message["content"]
            for message in json.loads(line)["messages"]
            if message["role"] == "user"
        ]
        for file in (*sorted(PROBES.glob("*.jsonl")), TEXTS / "small_probes.jsonl")
        for line in file.read_text().splitlines()
    ]
    return [
        *(text for conversation in newcomer_conversations() for text in conversation),
        *(question.text for question in read_contact_questions()),
        *(text for conversation in conversations for text in conversation),
    ]


def without_held_out(examples: Iterable[Example]) -> list[Example]:
    """Drop conversations in which a user message is a held-out question."""
    held = {words(question) for question in held_out_questions()}
    return [
        example for example in examples if not held & {words(turn) for turn in example.turns[::2]}
    ]


def write_dataset(examples: Sequence[Example], path: Path) -> str:
    """Write JSON lines for the SFT stage; return their SHA-256."""
    text = "".join(example.line() + "\n" for example in examples)
    path.write_text(text)
    return hashlib.sha256(text.encode()).hexdigest()


def _maybe_misspelt(example: Example, share: float, rng: random.Random) -> Example:
    if rng.random() >= share or len(example.turns[-1]) > MAX_MISSPELT_CHARACTERS:
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
