"""Configuration of the stages that train on given rows: SFT, reward model, DPO and KTO.

Commands check configurations before they import torch, so this module does not import torch.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated

from training.errors import ConfigError
from training.model.config import LoraConfig
from training.optim.config import OptimizerConfig
from training.rl.config import OffPolicyConfig, WatchConfig
from training.runtime.context import Lineage, Machine, Parallelism
from training.runtime.ranges import (
    Choices,
    Count,
    FlipFraction,
    FractionBelowOne,
    NonNegative,
    OpenFraction,
    Positive,
    Range,
    check_fields,
)

REWARD_LOSSES = ("bradley_terry", "margin_ranking")
KTO_WEIGHTS = ("balanced", "equal")


@dataclass(frozen=True)
class StageConfig:
    """Configuration of a stage that continues from a model directory.

    Attributes:
        lora: low-rank adapters in place of all weights; none: all weights are trained
        vocabulary_rows: number of embedding rows to train with, at least 1 and all that the data
            uses; only with lora; none: all rows
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time
        allow_extra_fields: ignore unknown fields of rows; without it they are an error
        seed: seed for the order of rows, the held-out rows and all random numbers
        machine: threads, number type and device
        parallelism: how workers share every network of the stage, including frozen ones
    """

    model_directory: Path
    data_path: Path
    output_directory: Path
    lineage: Lineage
    _: KW_ONLY
    lora: LoraConfig | None = None
    vocabulary_rows: Count | None = None
    checkpoint_activations: bool = False
    allow_extra_fields: bool = False
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    parallelism: Parallelism = field(default_factory=Parallelism)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.vocabulary_rows is not None and self.lora is None:
            raise ConfigError(
                "vocabulary_rows: needs lora, as full training would lose the other rows",
                field="vocabulary_rows",
                reason="CONFLICT",
            )


@dataclass(frozen=True)
class SftConfig(StageConfig):
    """Configuration of supervised fine-tuning.

    data_path: rows {"messages": [{"role", "content"}], "response": str, "weight": float = 1}, or
    another format that read_sft converts. output_directory becomes a model directory. With `lora`
    the adapter is merged into the model and also written to adapter/.

    Attributes:
        epochs: passes over the rows, at least 1
        batch_rows: rows per step, all workers together; at least 1
        microbatch_rows: rows per forward pass, at least 1; fewer need less memory, with equal
            results
        max_tokens: tokens of prompt and response together, at least 1; longer contexts lose their
            oldest messages (fit_context), rows that are still longer are dropped; both are counted
        optimizer: optimizer of all trained weights
        held_out_fraction: share of the distinct prompts that is measured and never learned, in [0,
            1)
        checkpoint_every_steps: steps between checkpoints, each with a measurement on held-out rows;
            at least 1
    """

    epochs: Count = 1
    batch_rows: Count = 16
    microbatch_rows: Count = 8
    max_tokens: Count = 512
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    held_out_fraction: FractionBelowOne = 0.05
    checkpoint_every_steps: Count = 50


@dataclass(frozen=True)
class RewardModelConfig(StageConfig):
    """Configuration of the reward model.

    data_path: rows {"messages", "chosen", "rejected", "margin": float = 0, "prompt_id": str, "tie":
    bool = false, "weight": float = 1}, or another format that read_pairs converts.
    output_directory: with `lora` an adapter on the weights of model_directory, otherwise a model
    directory; in both cases with head.safetensors and reward_model.json (base version, mean and
    standard deviation of the scores).

    Attributes:
        loss: bradley_terry, or margin_ranking, which requires the margin of each row
        centre_coefficient: pulls the sum of the scores of a pair towards 0, at least 0; 0: off
            (arXiv 2312.09244)
        epochs: passes over the pairs, at least 1
        batch_pairs: pairs per step, all workers together; at least 1
        microbatch_pairs: pairs per forward pass, at least 1; fewer need less memory, with equal
            results
        max_tokens: tokens of prompt and response together, at least 1; longer contexts lose their
            oldest messages (fit_context), pairs that are still longer are dropped; both are counted
        optimizer: optimizer of all trained weights
        held_out_fraction: share of the prompts, not of the pairs, that is measured and never
            learned, at least one prompt of each kind; in (0, 1)
        label_noise: known share of flipped labels, in [0, 0.5); none: estimated from pairs that
            were judged twice
        checkpoint_every_steps: steps between checkpoints, each with a measurement on held-out rows;
            at least 1
    """

    loss: Annotated[str, Choices(REWARD_LOSSES)] = "bradley_terry"
    centre_coefficient: NonNegative = 0.01
    epochs: Count = 1
    batch_pairs: Count = 16
    microbatch_pairs: Count = 4
    max_tokens: Count = 512
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    held_out_fraction: OpenFraction = 0.2
    label_noise: FlipFraction | None = None
    checkpoint_every_steps: Count = 50


@dataclass(frozen=True)
class PreferenceConfig(StageConfig):
    """Configuration that DPO and KTO share.

    output_directory becomes a model directory. With `lora` the adapter is merged into the model and
    also written to adapter/.

    Attributes:
        beta: penalty for divergence from the reference, above 0; smaller values allow more
        epochs: passes over the rows, at least 1
        max_tokens: tokens of prompt and response together, at least 1; rows with longer responses
            are dropped and counted
        optimizer: optimizer of all trained weights
        held_out_fraction: share of the prompts, not of the rows, that is measured and never
            learned, at least one prompt of each kind; in (0, 1)
        watch: samples at each checkpoint, and limits for stopping
        checkpoint_every_steps: steps between checkpoints, each with a measurement on held-out rows;
            at least 1
    """

    beta: Positive = 0.1
    epochs: Count = 1
    max_tokens: Count = 512
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    held_out_fraction: OpenFraction = 0.1
    watch: WatchConfig = field(default_factory=WatchConfig)
    checkpoint_every_steps: Count = 50


@dataclass(frozen=True)
class DpoConfig(PreferenceConfig):
    """Configuration of DPO; common fields in PreferenceConfig.

    data_path: rows {"messages", "chosen", "rejected", "margin": float = 0, "prompt_id": str}, or
    another format, as for the reward model. Ties are dropped: they hold the policy at its reference
    and reduce what is learned from the pairs (arXiv 2409.17431).

    Attributes:
        label_smoothing: assumed share of flipped labels in the loss; in [0, 0.5)
        margin_weight: nats of reward required by a pair's margin of 1, at least 0; 0: margins are
            ignored
        batch_pairs: pairs per step, all workers together; at least 1
        microbatch_pairs: pairs per forward pass, at least 1; fewer need less memory, with equal
            results
        label_noise: known share of flipped labels, in [0, 0.5); none: estimated from pairs that
            were judged twice
    """

    label_smoothing: FlipFraction = 0.0
    margin_weight: NonNegative = 0.0
    batch_pairs: Count = 16
    microbatch_pairs: Count = 4
    label_noise: FlipFraction | None = None


@dataclass(frozen=True)
class KtoConfig(PreferenceConfig):
    """Configuration of KTO; common fields in PreferenceConfig.

    data_path: rows {"messages", "response", "thumb": "up" or "down", "prompt_id"}, or another
    format that read_thumbs converts, and "served" if the sample is known. Then its ids are trained
    on, not those of the text.

    Attributes:
        weights: balanced: thumbs up and down have equal total weight; equal: each thumb has equal
            weight, for comparison
        batch_rows: thumbs per step, all workers together; at least 2, as the baseline z0 is a mean
            over mismatched prompts and responses of the batch
        microbatch_rows: thumbs per forward pass, at least 1; fewer need less memory, with equal
            results
        off_policy: requirements for answers that a version sampled while serving users
    """

    weights: Annotated[str, Choices(KTO_WEIGHTS)] = "balanced"
    batch_rows: Annotated[int, Range(2)] = 16
    microbatch_rows: Count = 8
    off_policy: OffPolicyConfig = field(default_factory=OffPolicyConfig)
