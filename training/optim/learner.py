"""Trained network with its parameters, its optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from training.optim.config import OptimizerConfig
from training.optim.gradients import apply_gradients
from training.optim.optimizers import build_optimizer
from training.runtime.ranks import Ranks


class Learner:
    """Trained network.

    Args:
        total_updates: length of the schedule; all optimizer steps of an update have the same rate.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        total_updates: int,
        ranks: Ranks,
    ) -> None:
        self._config, self._total, self._ranks = config, total_updates, ranks
        self.named = list(named)
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = build_optimizer(named, config)
        self.gradient_norm = 0.0  # of the last step, before clipping

    def rate(self, update: int) -> float:
        """Return the learning rate of an update, counted from 0."""
        return learning_rate_at(update, self._total, self._config)

    def step(self, update: int, at: str | Callable[[], str] = "") -> dict[str, float]:
        """Apply the accumulated gradients; return learning_rate and gradient_norm.

        Args:
            at: description of the step for an error about gradients, or a function that returns it.
                A function avoids waiting for the accelerator.
        """
        rate = self.rate(update)
        clip = self._config.gradient_clip
        self.gradient_norm = apply_gradients(
            self.optimizer, self.parameters, rate, clip, self._ranks, at
        )
        return {"learning_rate": rate, "gradient_norm": self.gradient_norm}


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then the decay of the schedule.

    WSD (warmup-stable-decay, arXiv 2404.06395) is constant with a cooldown at the end. Its constant
    part does not depend on the end of the run, so a run can be extended from a checkpoint before
    the cooldown. The rate depends on the step only, so a resumed run needs no scheduler state.
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
        # The cooldown starts at the peak, even if only few steps remain after the warm-up.
        begin = max(warmup_steps, total_steps - round(total_steps * config.cooldown_fraction))
        done = max(0.0, step - begin) / max(1, total_steps - begin)
        cooled = math.sqrt(done) if config.cooldown == "sqrt" else done  # arXiv 2405.18392, eq. 1
        return peak + (floor - peak) * cooled
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if config.schedule == "cosine":
        return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2
    return peak + (floor - peak) * done if config.schedule == "linear" else peak
