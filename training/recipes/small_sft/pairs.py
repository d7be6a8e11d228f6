"""Preference pairs for DPO: our answer is preferred to the small model's own."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from training.recipes.small_sft.dataset import FIRST_CONTACT, read_own, without_held_out
from training.recipes.small_sft.sources import Example, words

PAIRS = Path(__file__).parent / "first_contact_pairs.jsonl"
# Longer messages contain a text to work on; their answers cost most of the time.
MAX_QUESTION_CHARACTERS = 400
_ID_DIGITS = 12


def choose_questions(count: int, rng: random.Random) -> list[Example]:
    """Draw at most `count` of our examples of a first contact that have a single question."""
    examples = [
        example
        for example in without_held_out(read_own())
        if example.source == FIRST_CONTACT
        and len(example.turns) == 1
        and len(example.turns[0]) <= MAX_QUESTION_CHARACTERS
    ]
    return rng.sample(examples, min(count, len(examples)))


def make_pairs(
    examples: Sequence[Example], answer: Callable[[Sequence[Example]], Sequence[str]]
) -> list[str]:
    """Return the rows of the DPO stage: chosen is our answer, rejected the model's.

    Pairs of answers with the same words are left out, as are empty answers.

    Args:
        answer: the model's answer to each example.
    """
    rows = []
    for example, rejected in zip(examples, answer(examples), strict=True):
        if not words(rejected) or words(rejected) == words(example.response):
            continue
        row = {
            "messages": [{"role": "user", "content": example.turns[0]}],
            "chosen": example.response,
            "rejected": rejected,
            "prompt_id": hashlib.sha256(example.turns[0].encode()).hexdigest()[:_ID_DIGITS],
        }
        rows.append(json.dumps(row, ensure_ascii=False))
    return rows
