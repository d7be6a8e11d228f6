"""Command `thumbwheel train plan`: memory and time of a recipe."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from training.planning.accelerators import ACCELERATORS
from training.recipes.names import OPEN_MODELS

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands) -> None:
    """Add `plan` to the commands of `thumbwheel train`."""
    plan = commands.add_parser(
        "plan", help="memory and time of a recipe for open models, or why it does not fit"
    )
    plan.add_argument(
        "--recipe",
        required=True,
        metavar="NAME",
        help=f"a recipe file FILE.py, or {', '.join(OPEN_MODELS)}",
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
    plan.set_defaults(command=print_plan)


def print_plan(options: argparse.Namespace) -> int:
    """Print the plan of a recipe.

    Raises:
        ConfigError: as `plan_recipe`.
        ModelConfigError: the config.json describes an unsupported model.
    """
    # Imported here, because the parser of every command imports this module, and torch takes
    # seconds.
    from training.model.checkpoint import read_config
    from training.model.config import parse_config
    from training.planning.accelerators import accelerator_named
    from training.planning.plan import plan_recipe
    from training.planning.text import as_json, text
    from training.recipes.custom.recipe_file import open_recipe, set_fields
    from training.recipes.open_models.recipes import shape
    from training.stages.pretrain import PretrainConfig

    accelerator, recipe = accelerator_named(options.accelerator), open_recipe(options.recipe)
    first = recipe.stages[0].config
    if options.model is not None:
        model = read_config(options.model)
    elif isinstance(first, PretrainConfig):
        model = parse_config(first.model_json)
    else:
        model = shape(recipe.shape) if recipe.shape else read_config(first.model_directory)
    asked = {
        name: value for name in ("shard", "tensor") if (value := getattr(options, name)) is not None
    }
    stages = set_fields([stage.laid_out(**asked) for stage in recipe.stages], options.set)
    gpus = recipe.gpus if options.gpus is None else options.gpus
    planned = plan_recipe(recipe.name, stages, model, gpus, accelerator)
    price = options.dollars_per_gpu_hour
    print(json.dumps(as_json(planned, price), indent=2) if options.json else text(planned, price))
    return 0


def _price(given: str) -> float:
    price = float(given)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{given} is not a price")
    return price
