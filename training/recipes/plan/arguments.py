"""Arguments of `python -m training plan`.

The implementation is imported when the command runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from training.planning.accelerators import ACCELERATORS
from training.recipes.open_models.names import NAMES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands) -> None:
    """Add `plan` to the commands of `python -m training`."""
    plan = commands.add_parser(
        "plan", help="memory and time of a recipe for open models, or why it does not fit"
    )
    plan.add_argument(
        "--recipe",
        required=True,
        metavar="NAME",
        help=f"a recipe file FILE.py, or {', '.join(NAMES)}",
    )
    plan.add_argument(
        "--gpus", type=int, metavar="N", help="number of GPUs (default: that of the recipe)"
    )
    plan.add_argument(
        "--accelerator",
        default="h100",
        metavar="NAME",
        help=f"{', '.join(ACCELERATORS)} (default h100)",
    )
    plan.add_argument(
        "--shard", type=int, metavar="N", help="shards in every stage (default: the recipe's)"
    )
    plan.add_argument(
        "--tensor",
        type=int,
        metavar="N",
        help="tensor parallelism in every stage (default: the recipe's)",
    )
    plan.add_argument(
        "--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="as for `run`"
    )
    plan.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="model directory with the config.json to use instead of the recipe's model",
    )
    plan.add_argument(
        "--dollars-per-gpu-hour", type=_price, metavar="X", help="print the cost at this price"
    )
    plan.add_argument("--json", action="store_true", help="print JSON in bytes and seconds")
    plan.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> int:
    from training.recipes.plan.commands import plan

    return plan(options)


def _price(given: str) -> float:
    price = float(given)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{given} is not a price")
    return price
