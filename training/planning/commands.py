"""`python -m training plan`: what it takes, and what it prints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from training.model.checkpoint import read_config
from training.model.config import ModelConfig, parse_config
from training.planning.accelerators import ACCELERATORS, accelerator_named
from training.planning.plan import plan_recipe
from training.planning.text import as_json, text
from training.recipes.open_models.recipes import RECIPES, OpenRecipe
from training.recipes.open_models.shapes import shape
from training.recipes.own.recipe_file import open_recipe
from training.stages.pretrain import PretrainConfig


def describe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `plan` to the commands of `python -m training`."""
    plan = commands.add_parser("plan", help="memory and time of a recipe for open models, or why it does not fit")
    plan.add_argument("--recipe", required=True, metavar="NAME", help=f"FILE.py of your own, or {', '.join(RECIPES)}")
    plan.add_argument("--gpus", type=int, metavar="N", help="as many as the recipe is made for if not given")
    plan.add_argument("--accelerator", default="h100", metavar="NAME", help=f"{', '.join(ACCELERATORS)} (default h100)")
    plan.add_argument("--shard", type=int, metavar="N", help="of every stage, in place of the recipe's")
    plan.add_argument("--tensor", type=int, metavar="N", help="of every stage, in place of the recipe's")
    plan.add_argument(
        "--model", type=Path, metavar="DIR", help="whose config.json is the shape, in place of the recipe's"
    )
    plan.add_argument("--dollars-per-gpu-hour", type=_price, metavar="X", help="to print what it costs")
    plan.add_argument("--json", action="store_true", help="for programs: bytes and seconds")
    plan.set_defaults(command=_plan)


def _plan(options: argparse.Namespace) -> int:
    """Raises: ConfigError: as plan_recipe; ModelConfigError: the config.json is none that we build."""
    accelerator, recipe = accelerator_named(options.accelerator), open_recipe(options.recipe)
    model = _shape_of(recipe) if options.model is None else read_config(options.model)
    asked = {name: value for name in ("shard", "tensor") if (value := getattr(options, name)) is not None}
    stages = [stage.laid_out(**asked) for stage in recipe.stages]
    gpus = recipe.gpus if options.gpus is None else options.gpus
    plan = plan_recipe(recipe.name, stages, model, gpus, accelerator)
    price = options.dollars_per_gpu_hour
    print(json.dumps(as_json(plan, price), indent=2) if options.json else text(plan, price))
    return 0


def _shape_of(recipe: OpenRecipe) -> ModelConfig:
    """Of the model that the first stage begins from."""
    first = recipe.stages[0].config
    if isinstance(first, PretrainConfig):
        return parse_config(first.model_json)
    return shape(recipe.shape) if recipe.shape else read_config(first.model_directory)


def _price(given: str) -> float:
    price = float(given)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{given} is not a price")
    return price
