"""Configuration of the comparison of versions, without an import of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from training.runtime.context import Machine
from training.runtime.ranges import Count, FractionAboveZero, NonNegative, check_fields


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of the answers, as for users."""

    samples_per_prompt: Count = 4
    max_prompt_tokens: Count = 256
    max_response_tokens: Count = 64
    temperature: NonNegative = 1.0
    top_p: FractionAboveZero = 1.0
    batch_prompts: Count = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class EvaluationConfig:
    """Paths and settings of a comparison.

    Each reward model needs its base model (see `load_reward_model`).

    Attributes:
        thumbs: single rated answers of the run; None: the serving of the incumbent is not checked.
        devices: accelerators of the loop's process that share the layers of a model, at least 1.
    """

    incumbent_directory: Path
    candidate_directory: Path
    reward_model_directory: Path
    reward_model_base: Path
    judge_directory: Path
    judge_base: Path
    held_out_prompts: Path
    held_out_pairs: Path
    retention_texts: Path
    probes: Path
    health_directory: Path
    output_directory: Path
    sampling: Sampling = field(default_factory=Sampling)
    max_prompts: int = 128
    max_texts: int = 64
    probe_samples: int = 4
    machine: Machine = field(default_factory=Machine)
    thumbs: Path | None = None
    devices: Count = 1

    def __post_init__(self) -> None:
        check_fields(self)
