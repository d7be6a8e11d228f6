"""Stages by the names of their commands, with config class and module.

The modules import torch, so they are imported after the checks of a command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from training.artifacts.manifest import Manifest
from training.errors import ConfigError
from training.planning.stage import PlannedConfig
from training.runtime.context import RunContext
from training.stages.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig
from training.stages.policy_config import GrpoConfig, PolicyConfig, PpoConfig
from training.stages.pretrain_config import PretrainConfig

# Figures of PPO and GRPO with verifiable tasks among the prompts.
PRETRAIN, POLICY = "training.stages.pretrain", "training.recipes.rlvr.stage"
MIXED = ("preference_score", "verifiable_score")


@dataclass(frozen=True)
class Stage:
    """Config class of a stage, and the module whose function `run` runs a config.

    shown: figures of a step to display. Help texts are in arguments.py.
    """

    config: type[PlannedConfig]
    module: str
    shown: tuple[str, ...]

    @property
    def is_policy(self) -> bool:
        """True if the samples of the stage need a source of scores."""
        return issubclass(self.config, PolicyConfig)


STAGES: Mapping[str, Stage] = {
    "sft": Stage(
        SftConfig,
        "training.stages.sft",
        ("loss", "held_out_loss", "gradient_norm"),
    ),
    "reward-model": Stage(
        RewardModelConfig,
        "training.stages.reward_model",
        ("loss", "accuracy", "held_out_accuracy"),
    ),
    "dpo": Stage(
        DpoConfig,
        "training.stages.dpo",
        ("loss", "accuracy", "held_out_accuracy", "kl"),
    ),
    "kto": Stage(
        KtoConfig,
        "training.stages.kto",
        ("loss", "held_out_accuracy", "kl", "response_tokens"),
    ),
    "ppo": Stage(
        PpoConfig,
        POLICY,
        ("score", *MIXED, "kl", "response_tokens", "explained_variance"),
    ),
    "grpo": Stage(
        GrpoConfig,
        POLICY,
        ("score", *MIXED, "kl", "response_tokens", "zero_variance_groups"),
    ),
}


def runs(config: PlannedConfig) -> Callable[[Any, RunContext], Manifest]:
    """Import and return the function that runs a config of any stage.

    Raises:
        ConfigError: the config belongs to no stage.
    """
    kinds = [(PretrainConfig, PRETRAIN), *((one.config, one.module) for one in STAGES.values())]
    for kind, module in kinds:
        if isinstance(config, kind):
            run: Callable[[Any, RunContext], Manifest] = import_module(module).run
            return run
    raise ConfigError(
        f"config: {type(config).__name__} is not the config of a stage",
        field="config",
        reason="UNKNOWN",
    )
