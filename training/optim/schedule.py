"""Learning rate by step: linear warm-up, then constant, linear or cosine decay."""

from __future__ import annotations

import math

from training.optim.adam import OptimizerConfig


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Rate of step `step` (from 0). A function of the step, so that a resumed run needs no scheduler state."""
    peak, floor = config.learning_rate, config.learning_rate * config.final_fraction
    warmup_steps = round(total_steps * config.warmup_fraction)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.schedule == "cosine":
        return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2
    return peak + (floor - peak) * done if config.schedule == "linear" else peak
