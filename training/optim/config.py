"""Settings of optimizers and schedules, without an import of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from training.errors import ConfigError
from training.runtime.ranges import (
    Choices,
    CountOrZero,
    Fraction,
    FractionAboveZero,
    FractionBelowOne,
    Limit,
    NonNegative,
    Positive,
    check_fields,
)

ALGORITHMS = ("adamw", "muon", "adam", "sgd")
SCHEDULES = ("linear", "cosine", "constant", "wsd")
COOLDOWNS = ("linear", "sqrt")


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of optimizer and schedule.

    Rates are per step. After the warm-up the rate falls to final_fraction of its peak; with `wsd`
    only over the last cooldown_fraction of all steps (`learning_rate_at`). Muon uses the
    same learning_rate and weight_decay as AdamW. Adam and SGD add weight_decay times the weight to
    the gradient (L2), so that Adam divides it by the root of the squares.

    Attributes:
        learning_rate: peak rate, above 0
        schedule: decay of the rate after the warm-up: linear, cosine, constant (no decay), or wsd
            (decay at the end only)
        warmup_fraction: fraction of all steps in which the rate rises from 0, in [0, 1)
        warmup_steps: the same in steps, at least 0; none: use warmup_fraction
        final_fraction: final rate as a fraction of the peak, in [0, 1]
        cooldown_fraction: for wsd: fraction of all steps in which the rate decays, in (0, 1]
        cooldown: for wsd: form of the decay, linear or sqrt
        weight_decay: fraction of each matrix that a step subtracts, times the rate; adam and sgd:
            added to the gradient instead; at least 0
        algorithm: adamw; muon for hidden matrices and adamw for the rest; adam; or sgd
        betas: for adamw and adam: decay of the averages of gradients and of their squares, in
            [0, 1) each
        epsilon: for adamw and adam: added to the root of the squares; above 0
        momentum: for muon and sgd: decay of the sum of past gradients, in [0, 1); sgd with 0 has
            no state
        gradient_clip: maximum norm of all gradients together; larger gradients are scaled down;
            above 0
    """

    learning_rate: Positive = 1e-4
    schedule: Annotated[str, Choices(SCHEDULES)] = "linear"
    warmup_fraction: FractionBelowOne = 0.03
    warmup_steps: CountOrZero | None = None
    final_fraction: Fraction = 0.1
    cooldown_fraction: FractionAboveZero = 0.2  # 10-20 % are enough (arXiv 2405.18392, figure 5)
    cooldown: Annotated[str, Choices(COOLDOWNS)] = "sqrt"
    weight_decay: NonNegative = 0.0
    algorithm: Annotated[str, Choices(ALGORITHMS)] = "adamw"
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.95)
    epsilon: Positive = (
        1e-5  # Adam of PPO, "N implementation details"; intentionally larger than torch's default
    )
    momentum: FractionBelowOne = 0.95  # arXiv 2502.16982
    gradient_clip: Limit = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        falls, climbs = (
            self.cooldown_fraction,
            self.warmup_fraction if self.warmup_steps is None else 0.0,
        )
        if self.schedule == "wsd" and falls + climbs > 1:
            raise ConfigError(
                f"cooldown_fraction: {falls:g} plus a warmup_fraction of {climbs:g} exceeds 1",
                field="cooldown_fraction",
                reason="TOO_LARGE",
                limit=f"at most {1 - climbs:g}",
            )

    @property
    def numbers_per_weight(self) -> tuple[int, int]:
        """Return how many numbers the optimizer stores per weight: in hidden matrices, elsewhere.

        Two averages of Adam, the momentum of Muon or SGD.
        """
        if self.algorithm == "sgd":
            return (1, 1) if self.momentum else (0, 0)
        return (1, 2) if self.algorithm == "muon" else (2, 2)
