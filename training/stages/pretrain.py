"""Pre-training a tiny decoder from nothing on plain text: how `nano` is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.manifest import Manifest
from training.optim.adam import OptimizerConfig
from training.stages.context import Lineage, Machine, RunContext


@dataclass(frozen=True)
class PretrainConfig:
    """data_path: JSON lines {"text": str}. model_json: config.json to build (training.model.config.llama_json)."""

    tokenizer_directory: Path  # tokenizer.json and its companions
    data_path: Path
    output_directory: Path
    lineage: Lineage
    model_json: Mapping[str, Any]
    steps: int = 1000
    batch_rows: int = 32
    context_tokens: int = 128
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint_every_steps: int = 200
    seed: int = 0
    machine: Machine = field(default_factory=Machine)


def run(config: PretrainConfig, context: RunContext) -> Manifest:  # type: ignore[empty-body]
    """Train, write output_directory, and return its manifest (kind "model"). Progress metrics: loss, learning_rate, tokens."""
