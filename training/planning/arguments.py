"""What `python -m training plan` takes. What it does is imported once it is asked for."""

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
        help=f"FILE.py of your own, or {', '.join(NAMES)}",
    )
    plan.add_argument(
        "--gpus", type=int, metavar="N", help="as many as the recipe is made for if not given"
    )
    plan.add_argument(
        "--accelerator",
        default="h100",
        metavar="NAME",
        help=f"{', '.join(ACCELERATORS)} (default h100)",
    )
    plan.add_argument(
        "--shard", type=int, metavar="N", help="of every stage, in place of the recipe's"
    )
    plan.add_argument(
        "--tensor", type=int, metavar="N", help="of every stage, in place of the recipe's"
    )
    plan.add_argument(
        "--set", action="append", default=[], metavar="STAGE.FIELD=VALUE", help="as `run` takes it"
    )
    plan.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="whose config.json is the shape, in place of the recipe's",
    )
    plan.add_argument(
        "--dollars-per-gpu-hour", type=_price, metavar="X", help="to print what it costs"
    )
    plan.add_argument("--json", action="store_true", help="for programs: bytes and seconds")
    plan.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> int:
    from training.planning.commands import plan

    return plan(options)


def _price(given: str) -> float:
    price = float(given)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{given} is not a price")
    return price
