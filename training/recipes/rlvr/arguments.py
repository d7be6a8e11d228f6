"""Arguments of `thumbwheel train rlvr`.

The implementation is imported only when the command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from training.recipes.custom.arguments import FieldsHelp, Renamed, add_running
from training.recipes.names import RLVR_ALGORITHMS, RLVR_SIZES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

RENAMED = {
    "--updates": "--set updates=N",
    "--prompt-tokens": "--set max_prompt_tokens=N",
    "--response-tokens": "--set max_response_tokens=N",
    "--device": "--set machine.device=NAME",
}


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the command `rlvr`."""
    rlvr = commands.add_parser(
        "rlvr",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    rlvr.add_argument(
        "-h", "--help", action=FieldsHelp, const=_fields, nargs=0, help=FieldsHelp.TEXT
    )
    rlvr.add_argument("--task", required=True, help="one of `tasks list`")
    rlvr.add_argument(
        "--level", type=int, help="difficulty, from 0; default: the defaults of the generator"
    )
    rlvr.add_argument(
        "--texts", type=Path, help="folder of the packages of locks/small_sft_texts.txt"
    )
    rlvr.add_argument(
        "--model", type=Path, required=True, metavar="DIRECTORY", help="initial model"
    )
    rlvr.add_argument(
        "--size",
        choices=RLVR_SIZES,
        help="samples of an update: tiny 400, small 128; default: tiny for models below 50 million "
        "weights",
    )
    rlvr.add_argument(
        "--lora",
        action=argparse.BooleanOptionalAction,
        help="train adapters, or all weights; default: all weights below 50 million weights",
    )
    rlvr.add_argument("--algorithm", choices=RLVR_ALGORITHMS, default="grpo")
    rlvr.add_argument("--name", help="name of the output (default: model, task and algorithm)")
    rlvr.add_argument("--items", type=int, default=1000, help="training items (default 1000)")
    rlvr.add_argument(
        "--held-out",
        type=int,
        default=200,
        metavar="ITEMS",
        help="items for measurement (default 200)",
    )
    rlvr.add_argument(
        "--samples", type=int, default=2, help="answers per held-out item (default 2)"
    )
    for option, field in RENAMED.items():
        rlvr.add_argument(option, action=Renamed, const=field, help=argparse.SUPPRESS)
    add_running(rlvr, "FIELD=VALUE", samples=True)

    def train(options: argparse.Namespace) -> int:
        from training.recipes.rlvr.commands import train_on_task

        return train_on_task(options, code_commit())

    rlvr.set_defaults(command=train)


def _fields() -> str:
    from training.recipes.rlvr.recipe import settable_fields

    return settable_fields()
