"""The reward model: a decoder with a scalar head, trained on pairs (Bradley-Terry or margin ranking)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from training.manifest import Manifest
from training.model.lora import LoraConfig
from training.optim.adam import OptimizerConfig
from training.stages.context import Lineage, Machine, RunContext


@dataclass(frozen=True)
class RewardModelConfig:
    """data_path: JSON lines {"messages", "chosen", "rejected", "margin": float = 0, "prompt_id": str}.

    output_directory: with `lora` an adapter on model_directory's weights, else a model directory; in both head.safetensors
    and reward_model.json (base version, mean and standard deviation of its scores).
    """

    model_directory: Path
    data_path: Path
    output_directory: Path
    lineage: Lineage
    loss: str = "bradley_terry"  # or margin_ranking
    centre_coefficient: float = 0.01  # pulls chosen + rejected towards 0
    epochs: int = 1
    batch_pairs: int = 16  # pairs a step, all workers together
    microbatch_pairs: int = 4
    max_tokens: int = 512
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    vocabulary_rows: int | None = None
    held_out_fraction: float = 0.2  # of the prompts, never of the pairs
    label_noise: float | None = None  # share of flipped labels where known; None: estimated from repeated pairs
    checkpoint_every_steps: int = 50
    seed: int = 0
    machine: Machine = field(default_factory=Machine)


def run(config: RewardModelConfig, context: RunContext) -> Manifest:  # type: ignore[empty-body]
    """Train, write output_directory, and return its manifest (kind "reward_model").

    Progress metrics: loss, accuracy (of the batch), margin, held_out_accuracy (at checkpoints), gradient_norm.
    Report: train_pairs, held_out_pairs, held_out_prompts, held_out_accuracy, held_out_standard_error,
    label_noise, label_noise_ceiling (None where nothing says how noisy the labels are), score_mean, score_std, steps.
    """
