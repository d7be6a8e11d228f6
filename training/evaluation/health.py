"""Health of the reward models, measured as a stage before PPO.

The checks cover the agreement of thumbs, the accuracy of reward model and judge, and the match
between the served incumbent and the incumbent in training. PPO starts only if every check passed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.artifacts.manifest import Manifest, read_manifest
from training.data.chat import load_chat
from training.data.examples import PairExample, read_pairs
from training.evaluation.answers import score
from training.evaluation.comparison import FIGURES, EvaluationConfig, beats, write_figures
from training.evaluation.gate import (
    Check,
    GateConfig,
    check_labels,
    check_reward_model,
    check_served,
    decide,
)
from training.evaluation.served import ServingMismatch, measure_served
from training.measurement.figures import Estimate, clustered_mean
from training.model.reward import load_reward_model
from training.runtime.context import RunContext
from training.runtime.machine import configure_device


@dataclass(frozen=True)
class Health:
    """Accuracy of both reward models on unseen prompts, and difference of the served incumbent."""

    reward_model: Estimate
    judge: Estimate
    served: ServingMismatch | None = None

    def text(self) -> str:
        """Describe the health in a single line."""
        served = f", served {self.served.text()}" if self.served else ""
        return f"reward model {self.reward_model.text()}, judge {self.judge.text()}{served}"


@dataclass(frozen=True)
class HealthConfig:
    """Settings of the health stage.

    Attributes:
        label_noise: fraction of thumbs that contradict others; None if unknown.
        ceiling: highest possible accuracy on held-out pairs; None if unknown.
    """

    evaluation: EvaluationConfig
    gate: GateConfig
    label_noise: float | None
    ceiling: float | None

    @property
    def output_directory(self) -> Path:
        return self.evaluation.health_directory

    def checks(self) -> list[Check]:
        """Return the rows of the gate's table that are known before PPO.

        The health must have been measured.
        """
        health = read_health(self.output_directory)
        return [
            *check_labels(self.label_noise, self.gate),
            *check_served(health.served, self.gate),
            *check_reward_model("reward model", health.reward_model, self.ceiling, self.gate),
            *check_reward_model("judge", health.judge, self.ceiling, self.gate),
        ]

    def passed(self) -> bool:
        """Return True if all checks passed."""
        return decide(self.checks()).passed


def run(config: HealthConfig, context: RunContext) -> Manifest:
    """Measure on rank 0, write output_directory, and return its manifest (kind "health")."""
    # All ranks wait before rank 0 writes: a late rank would find the output, skip the stage, and
    # leave rank 0 waiting.
    context.ranks.wait()
    if context.ranks.rank == 0:
        measure_health(config.evaluation)
    context.ranks.wait()
    return read_manifest(config.output_directory)


def measure_health(config: EvaluationConfig) -> None:
    """Measure the accuracy of reward model and judge on held-out pairs, and the served answers."""
    autocast = configure_device(config.machine)
    pairs = read_pairs(config.held_out_pairs)
    tokens = config.sampling.max_prompt_tokens + config.sampling.max_response_tokens
    health = Health(
        accuracy(config.reward_model_directory, config.reward_model_base, pairs, tokens),
        accuracy(config.judge_directory, config.judge_base, pairs, tokens),
        measure_served(config.incumbent_directory, config.thumbs, autocast)
        if config.thumbs
        else None,
    )
    parents = (config.reward_model_directory.name, config.judge_directory.name)
    write_figures(config.health_directory, "health", asdict(health), parents, config)


def read_health(directory: Path) -> Health:
    """Read the measurements from a folder."""
    figures = json.loads((directory / FIGURES).read_text())
    served = figures.get("served")  # missing in runs of earlier versions
    return Health(
        Estimate(**figures["reward_model"]),
        Estimate(**figures["judge"]),
        ServingMismatch(**served) if served else None,
    )


def accuracy(
    directory: Path, base: Path, pairs: Sequence[PairExample], max_tokens: int
) -> Estimate:
    """Return the fraction of pairs in which the chosen answer scores higher; a tie counts half."""
    reward, chat = load_reward_model(directory, base), load_chat(base)
    chosen = score(reward, chat, [(pair.messages, pair.chosen) for pair in pairs], max_tokens)
    rejected = score(reward, chat, [(pair.messages, pair.rejected) for pair in pairs], max_tokens)
    right = [beats(high, low) for high, low in zip(chosen, rejected, strict=True)]
    return clustered_mean(right, [pair.prompt_id for pair in pairs])
