"""Command `thumbwheel train plan`: memory and time of a recipe."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import ConfigError, did_you_mean
from training.planning.accelerators import ACCELERATORS
from training.recipes.names import AUTO, OPEN_MODELS

if TYPE_CHECKING:
    from training.planning.hardware import Hardware

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands) -> None:
    """Add `plan` to the commands of `thumbwheel train`."""
    plan = commands.add_parser("plan")
    plan.add_argument(
        "--recipe",
        required=True,
        metavar="NAME",
        help=f"auto (the loop's recipe for any model), a recipe file FILE.py, or "
        f"{', '.join(OPEN_MODELS)}",
    )
    plan.add_argument(
        "--gpus",
        type=int,
        metavar="N",
        help="number of GPUs, or of workers on CPUs (default: that of the recipe; auto: 1)",
    )
    add_hardware(plan, "(default: h100; for auto that of this machine)")
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
        "--set",
        action="append",
        default=[],
        metavar="STAGE.FIELD=VALUE",
        help="field of a stage, as for `run`; repeatable",
    )
    plan.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="model directory with the config.json to use instead of the recipe's model; for auto "
        "also the name of a shape, such as qwen3-8b",
    )
    plan.add_argument(
        "--dollars-per-gpu-hour", type=_price, metavar="X", help="print the cost at this price"
    )
    plan.add_argument("--json", action="store_true", help="print JSON in bytes and seconds")
    plan.set_defaults(command=print_plan)


def add_hardware(parser: argparse.ArgumentParser, explained: str) -> None:
    """Add the options for the hardware of a plan.

    Args:
        explained: use and default of the accelerator.
    """
    parser.add_argument(
        "--accelerator",
        metavar="NAME",
        help=f"{', '.join(ACCELERATORS)}, or cpu for auto {explained}",
    )
    parser.add_argument(
        "--cores", type=int, metavar="N", help="cores of each worker on CPUs (default: as here)"
    )
    parser.add_argument(
        "--memory-gib",
        type=float,
        metavar="X",
        help="memory of each worker on CPUs (default: what is available here)",
    )
    parser.add_argument(
        "--max-hours", type=float, metavar="X", help="longest run that auto may plan (default: 24)"
    )


def check_derived_options(options: argparse.Namespace) -> None:
    """Check that options from which only `auto` derives a plan are not given.

    Raises:
        ConfigError: one is given.
    """
    for name in ("cores", "memory_gib", "max_hours"):
        if getattr(options, name) is not None:
            option = name.replace("_", "-")
            raise ConfigError(
                f"{option}: only for --recipe {AUTO}", field=option, reason="UNSUPPORTED"
            )


def hardware_of(
    options: argparse.Namespace, count: int = 0, gpus_per_worker: int = 0, device: str = "auto"
) -> Hardware:
    """Return the hardware that options name, or that is found here.

    Args:
        count: number of GPUs, or of workers on CPUs; 0: stages run in this process.
        gpus_per_worker, device: for hardware that is not named.

    Raises:
        ConfigError: as `named_hardware` and `found_hardware`.
    """
    from training.planning.accelerators import CPU
    from training.planning.hardware import found_hardware, named_hardware

    name = options.accelerator
    if name is None and (options.cores is not None or options.memory_gib is not None):
        name = CPU
    if name is None:
        return found_hardware(device, count, gpus_per_worker)
    return named_hardware(name, max(1, count), options.cores, options.memory_gib)


def print_auto(options: argparse.Namespace) -> int:
    """Print the plan of the recipe `auto` for a model directory or a shape, with assumed data.

    Raises:
        ConfigError: the model is not supported, a field is invalid, or nothing fits.
    """
    from training.recipes.auto.model import read_model
    from training.recipes.open_models.recipes import shape, shape_names

    given: Path | None = options.model
    names = ", ".join(shape_names())
    if given is None:
        raise ConfigError(
            f"model: missing; a directory, or {names}", field="model", reason="MISSING"
        )
    if str(given) not in shape_names() and not given.is_dir():
        raise ConfigError(
            f"model: {given} is neither a directory nor one of {names}"
            f"{did_you_mean(str(given), shape_names())}",
            field="model",
            reason="UNKNOWN",
            limit=names,
        )
    model = shape(str(given)) if str(given) in shape_names() else read_model(given)
    from training.recipes.custom.loop_fields import check_loop_fields

    check_loop_fields(options.set)
    # Imports torch, so model and fields are checked before.
    from training.cluster.group import gpus_for_each
    from training.planning.collected import ASSUMED
    from training.planning.text import as_json
    from training.recipes.auto.recipe import derive
    from training.recipes.recipe import MAX_HOURS, Plan

    gpus: int = options.gpus or 0
    hardware = hardware_of(options, gpus, gpus_for_each(gpus))
    if options.gpus is not None:
        hardware = replace(hardware, count=options.gpus)
    chosen = [f"parallelism.{name}={value}" for name, value in _layout(options).items()]
    stages = ("sft", "reward_model", "judge", "ppo")
    plan = Plan(
        "auto-1",
        Path("runs"),
        given,
        hardware,
        ASSUMED,
        assignments=(*options.set, *(f"{stage}.{text}" for text in chosen for stage in stages)),
        max_hours=MAX_HOURS if options.max_hours is None else options.max_hours,
    )
    derived = derive(plan, model)
    price = options.dollars_per_gpu_hour
    print(json.dumps(as_json(derived.planned, price), indent=2) if options.json else derived.text())
    return 0


def _layout(options: argparse.Namespace) -> dict[str, int]:
    """Return the factors of the layout that options set in every stage."""
    return {
        name: value for name in ("shard", "tensor") if (value := getattr(options, name)) is not None
    }


def print_plan(options: argparse.Namespace) -> int:
    """Print the plan of a recipe.

    Raises:
        ConfigError: as `plan_recipe`.
        ModelConfigError: the config.json describes an unsupported model.
    """
    from training.model.config import parse_config, read_config
    from training.planning.accelerators import accelerator_named
    from training.recipes.custom.recipe_file import open_recipe, set_fields
    from training.recipes.open_models.recipes import shape
    from training.stages.pretrain_config import PretrainConfig

    if options.recipe == AUTO:
        return print_auto(options)
    check_derived_options(options)
    accelerator = accelerator_named(options.accelerator or "h100")
    recipe = open_recipe(options.recipe)
    first = recipe.stages[0].config
    if options.model is not None:
        model = read_config(options.model)
    elif isinstance(first, PretrainConfig):
        model = parse_config(first.model_json)
    else:
        model = shape(recipe.shape) if recipe.shape else read_config(first.model_directory)
    stages = set_fields(
        [stage.laid_out(**_layout(options)) for stage in recipe.stages], options.set
    )
    gpus = recipe.gpus if options.gpus is None else options.gpus
    # Imports torch, so all options are checked before.
    from training.planning.plan import plan_recipe
    from training.planning.text import as_json, text

    planned = plan_recipe(recipe.name, stages, model, gpus, accelerator)
    price = options.dollars_per_gpu_hour
    print(json.dumps(as_json(planned, price), indent=2) if options.json else text(planned, price))
    return 0


def _price(given: str) -> float:
    price = float(given)
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{given} is not a price")
    return price
