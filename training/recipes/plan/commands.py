"""Implementation of `python -m training plan`."""

from __future__ import annotations

import argparse
import json

from training.model.checkpoint import read_config
from training.model.config import parse_config
from training.planning.accelerators import accelerator_named
from training.planning.plan import plan_recipe
from training.planning.text import as_json, text
from training.recipes.custom.recipe_file import open_recipe, set_fields
from training.recipes.open_models.shapes import shape
from training.stages.pretrain import PretrainConfig


def plan(options: argparse.Namespace) -> int:
    """Print the plan of a recipe.

    Raises:
        ConfigError: as `plan_recipe`.
        ModelConfigError: the config.json describes an unsupported model.
    """
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
