"""What `python -m training pretrain` and `scaling` take. What they do is imported once it is asked
for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from training.data.corpus import TEXTS_HELP
from training.recipes.custom.arguments import FieldsHelp, add_workers

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SET = "a field of the config, as optimizer.learning_rate=1e-3; may be repeated; with steps=N nothing is timed"
RECIPES = ("one_million", "ten_million")  # the names in recipe.py; a test compares them


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add both commands."""
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument(
        "--work", type=Path, required=True, help="folder of the texts, the shards and the runs"
    )
    work.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        metavar="PATH",
        help=f"{TEXTS_HELP}; without it openings of Wikipedia's articles",
    )
    one = commands.add_parser(
        "pretrain",
        parents=[work],
        help="make a small decoder from nothing",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    one.add_argument(
        "-h", "--help", action=FieldsHelp, const=_fields, nargs=0, help=FieldsHelp.TEXT
    )
    one.add_argument("--recipe", choices=RECIPES, required=True)
    one.add_argument(
        "--minutes",
        type=_positive,
        help="how long the whole may take about; the recipe's own if not given",
    )
    one.add_argument(
        "--tokenizer",
        type=Path,
        metavar="DIR",
        help="of `tokenizer train`, in place of one of its own",
    )
    one.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=SET)
    add_workers(one)
    one.set_defaults(command=lambda options: _pretrain(options, code_commit))
    three = commands.add_parser(
        "scaling", parents=[work], help="loss over compute for three sizes, as a page"
    )
    three.add_argument(
        "--tokens-per-parameter", type=_positive, default=2.0, help="20 is Chinchilla's (default 2)"
    )
    three.set_defaults(command=lambda options: _scale(options, code_commit))


def _fields() -> str:
    from training.recipes.pretraining.commands import settable_fields

    return settable_fields()


def _pretrain(options: argparse.Namespace, code_commit: Callable[[], str]) -> int:
    from training.recipes.pretraining.commands import run_pretrain

    return run_pretrain(options, code_commit())


def _scale(options: argparse.Namespace, code_commit: Callable[[], str]) -> int:
    from training.recipes.pretraining.commands import run_scaling

    return run_scaling(options, code_commit())


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return value
