"""Every task by its name, and the items that it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from training.errors import ConfigError
from training.verification.checks import Gym, Mathematics
from training.verification.items import HELD_OUT_OF, Item, Split
from training.verification.tasks import choices, coding, gym

FUNCTIONS, PROGRAMS = "python_functions", "python_programs"
# A generator may have few different questions; after so many draws for each wanted one there are no
# more.
MOST_DRAWS = 20
FORM = "Give your final answer in the form `Answer: X`."


@dataclass(frozen=True)
class Order:
    """What is asked of a task. level: None for the generator's own defaults."""

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


def names() -> dict[str, str]:
    """Every task, and what it is."""
    return {
        **dict.fromkeys(gym.GENERATORS, "reasoning-gym"),
        **dict.fromkeys(choices.SETS, "train split; needs --texts"),
        FUNCTIONS: "Python functions, run in the sandbox",
        PROGRAMS: "Python programs, run in the sandbox",
    }


def make_items(order: Order) -> list[Item]:
    """So many different items of the split; fewer where there are no more.

    Raises:
        ConfigError: the task, its level or its texts are not there.
    """
    if order.task not in names():
        raise ConfigError(
            f"task: {order.task} is unknown; `python -m training tasks list` names them",
            field="task",
            reason="UNKNOWN",
            limit=", ".join(names()),
        )
    found: dict[str, Item] = {}
    for item in _drawn(order):
        if item.split is order.split:
            found.setdefault(item.prompt, item)
        if len(found) == order.count:
            break
    return list(found.values())


def _drawn(order: Order) -> Iterator[Item]:
    most = order.count * MOST_DRAWS * (HELD_OUT_OF if order.split is Split.HELD_OUT else 1)
    make = partial(Item, order.task)
    if order.task in choices.SETS:
        if order.texts is None or order.level is not None:
            raise ConfigError(
                f"{order.task}: needs the folder of its texts, and has no levels",
                field="texts" if order.texts is None else "level",
                reason="MISSING" if order.texts is None else "UNSUPPORTED",
            )
        for prompt, choice in choices.questions(order.task, order.texts, most, order.seed):
            yield make(prompt, choice)
    elif order.task in (FUNCTIONS, PROGRAMS):
        problems = coding.functions if order.task == FUNCTIONS else coding.programs
        level = order.level or 0
        for prompt, check in problems(most, order.seed, level):
            yield make(prompt, check, level)
    else:
        for question, answer, entry in islice(
            gym.entries(order.task, most, order.seed, order.level), most
        ):
            check = Mathematics(answer) if order.task in gym.NUMERIC else Gym(order.task, entry)
            yield make(f"{question}\n{FORM}", check, order.level)
