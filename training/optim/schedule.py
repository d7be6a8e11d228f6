"""Learning rate per step: linear warm-up, then constant, linear, cosine, or WSD.

WSD (warmup-stable-decay, arXiv 2404.06395) is constant with a cooldown at the end. Its constant
part does not depend on the end of the run, so a run can be extended from a checkpoint before the
cooldown.
"""

from __future__ import annotations

import math

from training.optim.adam import OptimizerConfig


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Return the rate of a step, counted from 0.

    The rate depends on the step only, so a resumed run needs no scheduler state.
    """
    peak, floor = config.learning_rate, config.learning_rate * config.final_fraction
    warmup_steps = (
        round(total_steps * config.warmup_fraction)
        if config.warmup_steps is None
        else config.warmup_steps
    )
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if config.schedule == "wsd":
        return peak + (floor - peak) * _cooled(step, warmup_steps, total_steps, config)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.schedule == "cosine":
        return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2
    return peak + (floor - peak) * done if config.schedule == "linear" else peak


def _cooled(step: int, warmup_steps: int, total_steps: int, config: OptimizerConfig) -> float:
    """Return the completed fraction of the cooldown, linear or "1-sqrt" (arXiv 2405.18392, eq.

    1). The cooldown starts at the peak, even if only few steps remain after the warm-up.
    """
    begin = max(warmup_steps, total_steps - round(total_steps * config.cooldown_fraction))
    done = max(0.0, step - begin) / max(1, total_steps - begin)
    return math.sqrt(done) if config.cooldown == "sqrt" else done
