"""Commands `thumbwheel train tasks list` and `write`.

`write` stores prompts with their checks in a file for the training stages.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.verification.items import Split, write_items
from training.verification.tasks.catalogue import CHOICE_SETS, ItemRequest, make_items, names

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands) -> None:
    """Add `tasks` to the command line."""
    tasks = commands.add_parser("tasks")
    verbs = tasks.add_subparsers(required=True)
    verbs.add_parser("list", help="list all tasks").set_defaults(command=list_tasks)
    write = verbs.add_parser("write", help="write items of a task as prompts for a stage")
    add_task(write, "task")
    write.add_argument(
        "--items", type=int, required=True, metavar="N", help="number of different items"
    )
    write.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the items (default: 0)"
    )
    write.add_argument(
        "--split",
        choices=list(Split),
        default=Split.TRAIN,
        help="held-out items are refused for training (default: train)",
    )
    write.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="new file of JSON lines"
    )
    write.set_defaults(command=write_tasks)


def add_task(parser: argparse.ArgumentParser, name: str) -> None:
    """Add the arguments that choose a task.

    Args:
        name: of the argument, or of a required option.
    """
    is_option: dict[str, Any] = {"required": True} if name.startswith("-") else {}
    parser.add_argument(
        name, metavar="TASK", help="name from `thumbwheel train tasks list`", **is_option
    )
    parser.add_argument(
        "--level",
        type=int,
        metavar="N",
        help="difficulty, from 0 (default: the settings of the task's generator)",
    )
    parser.add_argument(
        "--texts",
        type=Path,
        metavar="DIR",
        help=f"for {', '.join(CHOICE_SETS)}: folder of the packages of locks/small_sft_texts.txt",
    )


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
        *(options.task, options.items, options.seed, Split(options.split)),
        *(options.level, options.texts),
    )
    items = make_items(request)
    written = write_items(items, options.output)
    if written < options.items:
        print(
            f"only {written} different items: {options.task} has no more"
            f" of the {options.split} split",
            file=sys.stderr,
        )
    print(f"{written} items of {options.task} ({options.split}) are in {options.output}")
    return 0
