"""Supervised fine-tuning on responses only: the prompt is read, never learned."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from training.manifest import Manifest
from training.model.lora import LoraConfig
from training.optim.adam import OptimizerConfig
from training.stages.context import Lineage, Machine, RunContext


@dataclass(frozen=True)
class SftConfig:
    """data_path: JSON lines {"messages": [{"role", "content"}], "response": str, "weight": float = 1}.

    output_directory becomes a model directory; with `lora` the adapter is merged into it and kept apart under adapter/.
    """

    model_directory: Path
    data_path: Path
    output_directory: Path
    lineage: Lineage
    epochs: int = 1
    batch_rows: int = 16  # examples a step, all workers together
    microbatch_rows: int = 8  # examples in one forward
    max_tokens: int = 512  # prompt + response; longer examples are dropped and counted
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None  # None: all weights
    vocabulary_rows: int | None = None  # train with this many embedding rows; LoRA only
    held_out_fraction: float = 0.05
    checkpoint_every_steps: int = 50
    seed: int = 0
    machine: Machine = field(default_factory=Machine)


def run(config: SftConfig, context: RunContext) -> Manifest:  # type: ignore[empty-body]
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, held_out_loss (at checkpoints), learning_rate, gradient_norm, tokens.
    Report: examples, dropped_too_long, held_out_loss_before, held_out_loss, steps.
    """
