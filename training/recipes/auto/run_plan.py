"""Start of a run whose values are derived: its model, its hardware and data, and its plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from training.artifacts.registry import Registry, RegistryError
from training.data.feedback.sets import TrainingSets
from training.planning.collected import collected_from, measure_data
from training.planning.hardware import hardware_from
from training.recipes.auto.recipe import plan_text
from training.recipes.names import AUTO
from training.recipes.recipe import LoopConfig, Plan, Recipe


def base_version(registry: Registry, name: str) -> str:
    """Return the version that a first run without a rollout starts from.

    Raises:
        RegistryError: recipe `auto`, and the registry has not exactly one model.
    """
    if name != AUTO:
        return f"{name}-0"
    versions = [manifest.version for manifest in registry.manifests()]
    if len(versions) != 1:
        raise RegistryError(
            f"version: auto starts from the only model of the registry, which has "
            f"{', '.join(versions) or 'none'}; run it with a rollout, whose stable version it "
            "trains",
            field="version",
            reason="AMBIGUOUS" if versions else "MISSING",
            limit="1 model",
        )
    return versions[0]


def recorded_plan(plan: Plan, file: Path) -> Plan:
    """Return the plan with the hardware and the data that the run began with, if it recorded any.

    Batches that differ from those of the first start would be those of another run.

    Args:
        file: the run's config.json, which is missing if the run was stopped before it was written.
    """
    if not file.exists():
        return plan
    fields = json.loads(file.read_text())["plan"]
    if fields.get("hardware") is None:
        return plan
    return replace(
        plan, hardware=hardware_from(fields["hardware"]), data=collected_from(fields["data"])
    )


def with_data(
    config: LoopConfig, recipe: Recipe, sets: TrainingSets, say: Callable[[str], None]
) -> LoopConfig:
    """Return the configuration that a recipe derives from the collected data, and show its plan.

    Recipes with measured values need no data.

    Raises:
        ConfigError: the run does not fit the hardware.
    """
    plan = config.plan
    if plan.hardware is None:
        return config
    if plan.data is None:
        config = recipe(replace(plan, data=measure_data(sets, plan.incumbent_directory)))
    for line in plan_text(config).splitlines():
        say(line)
    return config
