"""PPO against a reward model, with a critic, a KL penalty to the starting policy, and a stop on over-optimisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from training.manifest import Manifest
from training.model.lora import LoraConfig
from training.optim.adam import OptimizerConfig
from training.stages.context import Lineage, Machine, RunContext


@dataclass(frozen=True)
class KlConfig:
    """beta stays at `initial` where target_nats is None, else it follows the measured KL (Ziegler et al. 2019)."""

    initial: float = 0.05
    target_nats: float | None = None  # per response
    horizon_samples: int = 2000


@dataclass(frozen=True)
class PpoConfig:
    """data_path: JSON lines {"messages": [...]}. The reference is model_directory as it is.

    output_directory becomes a model directory; with `lora` policy, critic and reward model share the base weights.
    """

    model_directory: Path
    reward_model_directory: Path
    data_path: Path
    output_directory: Path
    lineage: Lineage
    updates: int = 100
    prompts_per_update: int = 32  # all workers together
    samples_per_prompt: int = 1
    minibatch_rows: int = 16
    epochs_per_update: int = 2
    max_prompt_tokens: int = 256
    max_response_tokens: int = 64
    temperature: float = 1.0
    clip: float = 0.2
    value_clip: float = 0.2
    gae_lambda: float = 0.95
    discount: float = 1.0
    kl: KlConfig = field(default_factory=KlConfig)
    missing_eos_penalty: float = 1.0
    score_clip: float = 5.0  # of the normalised score
    kl_ceiling_nats: float = 20.0  # per response; above: stop
    length_floor_fraction: float = 0.25  # of the first update's mean length; below: stop
    policy_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    critic_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    vocabulary_rows: int | None = None
    checkpoint_every_updates: int = 5
    seed: int = 0
    machine: Machine = field(default_factory=Machine)


def run(config: PpoConfig, context: RunContext) -> Manifest:  # type: ignore[empty-body]
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics, every update: score, reward, kl, beta, entropy, clip_fraction, approximate_kl, eos_rate,
    response_tokens, explained_variance, policy_loss, value_loss, sampler_mismatch.
    Report: updates, stopped_because ("" or the reason), exported_update; first and last of score, kl, eos_rate,
    response_tokens.
    """
