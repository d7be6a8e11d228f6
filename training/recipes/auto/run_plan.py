"""Start of a run whose values are derived: its model, its hardware and data, and its plan."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from training.artifacts.registry import Registry, RegistryError
from training.data.feedback.sets import TrainingSets
from training.errors import ConfigError
from training.planning.collected import collected_from, measure_data
from training.planning.hardware import hardware_from
from training.recipes.auto.recipe import plan_text
from training.recipes.names import AUTO
from training.recipes.recipe import LoopConfig, Plan, Recipe
from training.serving.rollout_server import RolloutServer, ServerEngine
from training.serving.vllm_command import default_python


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


def require_vllm(server: RolloutServer | None) -> None:
    """Check before training that the environment of the trainer has vLLM if it is to start it.

    Raises:
        ConfigError: vLLM is missing, and no interpreter of another environment is given.
    """
    if server is None or server.engine is not ServerEngine.VLLM or server.address is not None:
        return
    python = server.python or default_python()
    if python == Path(sys.executable) and find_spec("vllm") is None:
        raise ConfigError(
            "ppo.rollout_server.python: vLLM samples for PPO, and the trainer's environment does "
            "not have it; name an interpreter that does (docs/training.md, rollouts by a model "
            "server)",
            field="ppo.rollout_server.python",
            reason="MISSING",
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
    require_vllm(config.ppo.rollout_server)
    for line in plan_text(config).splitlines():
        say(line)
    return config
