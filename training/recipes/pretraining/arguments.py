"""Arguments of `thumbwheel train pretrain` and `scaling`.

The implementation is imported only when a command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.corpus import TEXTS_HELP
from training.errors import Renamed
from training.recipes.custom.arguments import WORK_HELP, FieldsHelp, add_workers
from training.recipes.pretraining.shapes import (
    add_options,
    check_weights,
    chosen_shape,
    listed_shapes,
)
from training.reporting.tracking import add_track

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SET = (
    "field of the list below, such as optimizer.learning_rate=1e-3; repeatable; steps=N skips the "
    "timing of this machine"
)


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the commands `pretrain` and `scaling`."""
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument(
        "--work",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"{WORK_HELP}; runs of a folder share tokenizer and token shards",
    )
    work.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        metavar="PATH",
        help=f"{TEXTS_HELP} (default: openings of Wikipedia articles)",
    )
    add_track(work)
    pretrain = commands.add_parser(
        "pretrain",
        parents=[work],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    pretrain.add_argument(
        "-h", "--help", action=FieldsHelp, const=_fields, nargs=0, help=FieldsHelp.TEXT
    )
    pretrain.add_argument("--recipe", action=Renamed, const="--shape", help=argparse.SUPPRESS)
    pretrain.add_argument(
        "--name",
        metavar="NAME",
        help="name of the trained model, a folder in --work (default: the shape)",
    )
    pretrain.add_argument(
        "--minutes",
        type=_positive,
        metavar="N",
        help="estimated total time on an idle machine, from a timing of ten seconds; other load "
        "makes the run longer, because the number of steps is fixed (default: 3 for one_million, "
        "otherwise 20)",
    )
    pretrain.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="output of `tokenizer train` (default: train one on the texts)",
    )
    pretrain.add_argument(
        "--shards",
        type=Path,
        metavar="DIR",
        help="token shards of `data build` (result/shards) instead of --texts; --tokenizer names "
        "their tokenizer (result/tokenizer)",
    )
    pretrain.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=SET)
    add_workers(pretrain)
    add_options(pretrain)

    def run_pretrain(options: argparse.Namespace) -> int:
        shape = chosen_shape(options)
        if not options.workers[0]:
            check_weights(shape)
        from training.recipes.pretraining import commands

        return commands.run_pretrain(options, shape, code_commit())

    pretrain.set_defaults(command=run_pretrain)
    describe_scaling(commands, work, code_commit)


def describe_scaling(
    commands: Commands, work: argparse.ArgumentParser, code_commit: Callable[[], str]
) -> None:
    """Add the command `scaling` with the options of `work`."""
    scaling = commands.add_parser("scaling", parents=[work])
    scaling.add_argument(
        "--tokens-per-parameter",
        type=_positive,
        default=2.0,
        metavar="N",
        help="tokens of training for each weight, 20 in Chinchilla (default: 2)",
    )
    scaling.add_argument(
        "--name",
        default="scaling",
        metavar="NAME",
        help="name of the report and its models (default: scaling)",
    )

    def run_scaling(options: argparse.Namespace) -> int:
        from training.recipes.pretraining import commands

        return commands.run_scaling(options, code_commit())

    scaling.set_defaults(command=run_scaling)


def _fields() -> str:
    from training.recipes.pretraining.commands import settable_fields

    return f"{listed_shapes()}\n\n{settable_fields()}"


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
