"""Learning rate by step: linear warm-up, then constant, linear, cosine, or constant with a cooldown
at the end.

The last is warm-up-stable-decay (arXiv 2404.06395): its middle does not know where the run ends, so
a run can be made longer from a checkpoint before the cooldown.
"""

from __future__ import annotations

import math

from training.optim.adam import OptimizerConfig


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Rate of step `step` (from 0). A function of the step, so that a resumed run needs no
    scheduler state.
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
    """How much of the way from peak to floor is gone: a straight line, or its root ("1-sqrt", arXiv
    2405.18392, equation 1). It begins at the peak also where few steps are left after a warm-up of
    so many steps.
    """
    begin = max(warmup_steps, total_steps - round(total_steps * config.cooldown_fraction))
    done = max(0.0, step - begin) / max(1, total_steps - begin)
    return math.sqrt(done) if config.cooldown == "sqrt" else done
