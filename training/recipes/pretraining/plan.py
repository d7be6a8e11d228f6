"""How many steps fit into the minutes that somebody has: timed once at the start, and written down, so that a run that goes on after a
kill has the same length and the same number type as before.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from training.model.config import parse_config
from training.model.transformer import Decoder, initialise
from training.optim.adam import build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.ranks import ALONE
from training.stages.context import ConfigError
from training.stages.machine import bfloat16_pays, moved, settle
from training.stages.pretrain import PretrainConfig, accumulate, open_data

TIMED_STEPS = 3
TRAINING_SHARE = 0.85  # the rest is for measuring, samples and checkpoints


@dataclass(frozen=True)
class Plan:
    """plan.json."""

    recipe: str
    minutes: float
    steps: int
    dtype: str
    tokens_per_second: float


def planned(path: Path, recipe: str, minutes: float, config: PretrainConfig) -> Plan:
    """The plan at `path`; made where there is none.

    Args:
        config: whose steps and dtype do not count yet.

    Raises:
        ConfigError: the plan there is for another recipe or other minutes.
    """
    if path.exists():
        plan = Plan(**json.loads(path.read_text()))
        if (plan.recipe, plan.minutes) != (recipe, minutes):
            raise ConfigError(f"work: holds {plan.recipe} for {plan.minutes:g} minutes; take another folder")
        return plan
    dtype = "bfloat16" if bfloat16_pays() else "float32"
    speed = tokens_per_second(replace(config, machine=replace(config.machine, dtype=dtype)))
    tokens_per_step = config.batch_rows * config.context_tokens
    steps = max(1, round(minutes * 60 * TRAINING_SHARE * speed / tokens_per_step))
    plan = Plan(recipe, minutes, steps, dtype, speed)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(plan), indent=2) + "\n")
    partial.replace(path)
    return plan


def tokens_per_second(config: PretrainConfig) -> float:
    """Of the config's own steps, on a model that is thrown away. The first step is not timed: it warms up."""
    autocast = settle(config.machine)
    data = open_data(config)
    with torch.device("cpu"):
        decoder = Decoder(parse_config(config.model_json))
    initialise(decoder, config.seed)
    moved(decoder)
    optimizer = build_optimizer(decoder.named_parameters(), config.optimizer)
    rows = [row % len(data.train) for row in range(config.batch_rows)]
    started = 0.0
    for step in range(1 + TIMED_STEPS):
        if step == 1:
            started = time.perf_counter()
        accumulate(decoder, data.train, rows, config.microbatch_rows, autocast, ALONE)
        apply_gradients(optimizer, list(decoder.parameters()), 0.0, 1.0, ALONE)
    return TIMED_STEPS * config.batch_rows * config.context_tokens / (time.perf_counter() - started)
