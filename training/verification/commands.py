"""Commands `thumbwheel train tasks list` and `write`.

`write` stores prompts with their checks in a file for the training stages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.verification.items import Split, write_items
from training.verification.tasks.catalogue import ItemRequest, make_items, names

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands) -> None:
    """Add `tasks` to the command line."""
    tasks = commands.add_parser("tasks")
    verbs = tasks.add_subparsers(required=True)
    verbs.add_parser("list", help="list all tasks").set_defaults(command=list_tasks)
    write = verbs.add_parser("write", help="write items of a task as prompts for a stage")
    write.add_argument("name", help="a task of `tasks list`")
    write.add_argument("--items", type=int, required=True, metavar="N")
    write.add_argument("--seed", type=int, default=0)
    write.add_argument("--split", type=Split, choices=list(Split), default=Split.TRAIN)
    write.add_argument(
        "--level", type=int, help="difficulty, from 0; default: the generator's own settings"
    )
    write.add_argument(
        "--texts", type=Path, help="folder of the packages of locks/small_sft_texts.txt"
    )
    write.add_argument("--output", type=Path, required=True, metavar="FILE")
    write.set_defaults(command=write_tasks)


def list_tasks(options: argparse.Namespace) -> int:
    """Print one line per task."""
    for name, source in names().items():
        print(f"{name:<26}{source}")
    return 0


def write_tasks(options: argparse.Namespace) -> int:
    """Write the items of a task.

    Raises:
        ValueError: the task, its level or its texts are unavailable.
    """
    request = ItemRequest(
        options.name, options.items, options.seed, options.split, options.level, options.texts
    )
    items = make_items(request)
    written = write_items(items, options.output)
    if written < options.items:
        print(
            f"only {written} different items: {options.name} has no more"
            f" of the {options.split} split",
            file=sys.stderr,
        )
    print(f"{written} items of {options.name} ({options.split}) are in {options.output}")
    return 0
