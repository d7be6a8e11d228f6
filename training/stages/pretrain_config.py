"""Configuration of pre-training.

This module does not import torch, like config.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from training.data.corpus import PACKINGS
from training.errors import ConfigError
from training.model.config import parse_config
from training.optim.config import OptimizerConfig
from training.runtime.context import Lineage, Machine, Parallelism
from training.runtime.ranges import Choices, Count, CountOrZero, NonNegative, check_fields


@dataclass(frozen=True)
class SampleConfig:
    """Samples at each checkpoint.

    The seeds are always the same, so that samples over time differ only by the model.

    Attributes:
        prompts: beginnings to continue, separated by commas
        openings: number of held-out texts whose openings are prompts too; at least 0
        max_tokens: tokens of each continuation, at least 1
        temperature: sampling temperature, at least 0; 0: the most probable token
    """

    prompts: tuple[str, ...] = ()
    openings: CountOrZero = 0
    max_tokens: Count = 64
    temperature: NonNegative = 0.8

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PretrainConfig:
    """Configuration of pre-training.

    shards_directory: output of training.data.token_shards. model_json: config.json of the model to
    build (training.model.config.llama_json).

    Attributes:
        steps: optimizer steps of the whole run, at least 1
        batch_rows: rows per step, all workers together; at least 1
        microbatch_rows: rows per forward pass, at least 1; fewer need less memory, with equal
            results
        context_tokens: tokens of a row, at least 2, and at most the positions of the model
        packing: documents: a token sees only its own text; stream: a text may see the preceding
            texts
        optimizer: optimizer of all trained weights
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time
        evaluate_every_steps: steps between measurements of bits per byte, at least 1; none: never
        evaluation_tokens: number of the first held-out tokens to measure, at least 1
        samples: texts that are generated at each checkpoint
        checkpoint_every_steps: steps between checkpoints, at least 1
        seed: seed for the order of rows and all random numbers
        machine: threads, number type and device
        parallelism: how workers share the model
    """

    tokenizer_directory: Path  # tokenizer.json and its companions
    shards_directory: Path
    output_directory: Path
    lineage: Lineage
    model_json: Mapping[str, Any]
    steps: Count = 1000
    batch_rows: Count = 32
    microbatch_rows: Count = 32
    context_tokens: Count = 128
    packing: Annotated[str, Choices(PACKINGS)] = "documents"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    checkpoint_activations: bool = False
    evaluate_every_steps: Count | None = None
    evaluation_tokens: Count = 1 << 16
    samples: SampleConfig = field(default_factory=SampleConfig)
    checkpoint_every_steps: Count = 200
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    parallelism: Parallelism = field(default_factory=Parallelism)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.parallelism.pipeline > 1 and (self.samples.prompts or self.samples.openings):
            raise ConfigError(
                "samples: a pipeline does not support sampling",
                field="samples",
                reason="CONFLICT",
            )
        longest = parse_config(self.model_json).max_positions
        if not 2 <= self.context_tokens <= longest:
            raise ConfigError(
                f"context_tokens: {self.context_tokens} is not in [2, {longest}] (model positions)",
                field="context_tokens",
                reason="OUT_OF_RANGE",
                limit=f"in [2, {longest}]",
            )


def nothing_held_out(texts: int, share: float, is_optional: bool = True) -> ConfigError:
    """Return the error for texts of which none is held out, so that nothing can be measured.

    Args:
        texts: their number.
        share: of the texts that are held out.
        is_optional: the run can measure nothing instead.
    """
    # With so many texts, none is held out in one of twenty cases: (1 - share) ^ (3 / share).
    needed = math.ceil(3 / share) if share else 0
    field = "evaluate_every_steps" if is_optional else "texts"
    advice = [f"pass more texts with --texts ({needed} suffice)"] if share else []
    if is_optional:
        advice.append("measure nothing with --set evaluate_every_steps=none")
    return ConfigError(
        f"{field}: none of the {texts:,} texts is held out to measure, because the share is "
        f"{share:g}; {', or '.join(advice)}",
        field=field,
        reason="EMPTY",
        limit=f"about {needed} texts" if share else "",
    )
