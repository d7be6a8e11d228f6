"""Recipe of a run of the loop with the changes of the command line.

Only the recipe `auto` imports torch, when it derives a configuration.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from training.cluster.group import gpus_for_each
from training.recipes.custom.loop_fields import (
    canary_assignments,
    check_loop_fields,
    set_loop_fields,
    text_assignments,
)
from training.recipes.names import AUTO
from training.recipes.nano import nano
from training.recipes.plan import check_derived_options, hardware_of
from training.recipes.recipe import LoopConfig, Plan, Recipe
from training.recipes.small import small
from training.runtime.context import AUTO_DEVICE, check_device

if TYPE_CHECKING:
    from training.planning.hardware import Hardware


def _auto(plan: Plan) -> LoopConfig:
    from training.recipes.auto.recipe import auto

    return auto(plan)


RECIPES: Mapping[str, Recipe] = {AUTO: _auto, "nano": nano, "small": small}


def workers_hardware(options: argparse.Namespace) -> Hardware:
    """Return the hardware of the requested workers.

    Raises:
        ConfigError: as `hardware_of`.
    """
    most, fewest = options.workers or (1, None)
    device = options.device or AUTO_DEVICE
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = gpus_for_each(most) if device == AUTO_DEVICE else 0
    return replace(hardware_of(options, most, gpus, device), fewest=fewest)


def adjusted_recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe with the changes of the command line; raise ConfigError for wrong ones."""
    texts = text_assignments(options.texts) if options.texts else ()
    assignments = (*texts, *canary_assignments(options), *options.set)
    recipe, derives = RECIPES[options.recipe], options.recipe == AUTO
    if not derives:
        check_derived_options(options)
    check_loop_fields(assignments)
    check_device(options.device or AUTO_DEVICE)

    def adjusted(plan: Plan) -> LoopConfig:
        if derives:
            # A resumed run has the hardware that it began with.
            hours = options.max_hours or plan.max_hours
            plan = replace(
                plan,
                hardware=plan.hardware or workers_hardware(options),
                assignments=assignments,
                max_hours=hours,
            )
        config = set_loop_fields(recipe(plan), assignments)
        tasks = tuple(dict.fromkeys((*config.gate.tasks, *options.gate_tasks)))
        config = replace(config, gate=replace(config.gate, tasks=tasks))
        if options.workers is not None:
            most, fewest = options.workers
            gpus = config.gpus_per_worker if most else 0
            config = replace(config, num_workers=most, fewest_workers=fewest, gpus_per_worker=gpus)
        if options.gpus_per_worker is None and options.device in (None, "auto"):
            found = max(config.gpus_per_worker, gpus_for_each(config.num_workers))
            config = replace(config, gpus_per_worker=found)
        if options.device is not None:
            config = config.on_device(options.device)
        names = ("gpus_per_worker", "rollout_actors", "checkpoints_in_bucket")
        given = {name: getattr(options, name) for name in names}
        return replace(
            config, **{name: value for name, value in given.items() if value is not None}
        )

    return adjusted
