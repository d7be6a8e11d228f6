"""Stages by the names of their commands, with config class and function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from training.artifacts.manifest import Manifest
from training.errors import ConfigError
from training.planning.stage import PlannedConfig
from training.recipes.rlvr.stage import run as run_policy
from training.runtime.context import RunContext
from training.stages import dpo, kto, pretrain, reward_model, sft
from training.stages.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig
from training.stages.policy_config import GrpoConfig, PolicyConfig, PpoConfig
from training.stages.pretrain_config import PretrainConfig

# Figures of PPO and GRPO with verifiable tasks among the prompts.
MIXED = ("preference_score", "verifiable_score")


@dataclass(frozen=True)
class Stage:
    """Config class and function of a stage.

    shown: figures of a step to display. Help texts are in arguments.py.
    """

    config: type[PlannedConfig]
    run: Callable[[Any, RunContext], Manifest]
    shown: tuple[str, ...]

    @property
    def is_policy(self) -> bool:
        """True if the samples of the stage need a source of scores."""
        return issubclass(self.config, PolicyConfig)


STAGES: Mapping[str, Stage] = {
    "sft": Stage(
        SftConfig,
        sft.run,
        ("loss", "held_out_loss", "gradient_norm"),
    ),
    "reward-model": Stage(
        RewardModelConfig,
        reward_model.run,
        ("loss", "accuracy", "held_out_accuracy"),
    ),
    "dpo": Stage(
        DpoConfig,
        dpo.run,
        ("loss", "accuracy", "held_out_accuracy", "kl"),
    ),
    "kto": Stage(
        KtoConfig,
        kto.run,
        ("loss", "held_out_accuracy", "kl", "response_tokens"),
    ),
    "ppo": Stage(
        PpoConfig,
        run_policy,
        ("score", *MIXED, "kl", "response_tokens", "explained_variance"),
    ),
    "grpo": Stage(
        GrpoConfig,
        run_policy,
        ("score", *MIXED, "kl", "response_tokens", "zero_variance_groups"),
    ),
}


def runs(config: PlannedConfig) -> Callable[[Any, RunContext], Manifest]:
    """Return the function that runs a config of any stage.

    Raises:
        ConfigError: the config belongs to no stage.
    """
    if isinstance(config, PretrainConfig):
        return pretrain.run
    for stage in STAGES.values():
        if isinstance(config, stage.config):
            return stage.run
    raise ConfigError(
        f"config: {type(config).__name__} is not the config of a stage",
        field="config",
        reason="UNKNOWN",
    )
