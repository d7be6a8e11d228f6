"""Configuration that the stages after pre-training share."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.parallelism.layout import Parallelism
from training.runtime.context import Lineage, Machine
from training.runtime.ranges import Count, check_ranges


@dataclass(frozen=True)
class StageConfig:
    """Configuration of a stage that continues from a model directory.

    Attributes:
        lora: low-rank adapters in place of all weights; none: all weights are trained
        vocabulary_rows: number of embedding rows to train with, at least 1 and all that the data
            uses; only with lora; none: all rows
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time
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
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    parallelism: Parallelism = field(default_factory=Parallelism)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.vocabulary_rows is not None and self.lora is None:
            raise ConfigError(
                "vocabulary_rows: needs lora, as full training would lose the other rows",
                field="vocabulary_rows",
                reason="CONFLICT",
            )
