"""The weight of the KL penalty: fixed, or following a target (Ziegler et al., arXiv 1909.08593)."""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import ConfigError
from training.ranges import Count, NonNegative, Positive, check_ranges

MAX_RELATIVE_ERROR = 0.2  # one update moves beta by at most 20 % of samples / horizon


@dataclass(frozen=True)
class KlConfig:
    """The cost, beta, and the KL that it follows, if any.

    Attributes:
        initial: what a nat of KL to the reference costs in reward (beta), at least 0
        target_nats: KL a response that the cost is adjusted to keep, above 0; none: the cost stays
            as it is
        horizon_samples: responses in which that adjustment happens, at least 1; more: slower
    """

    initial: NonNegative = 0.05
    target_nats: Positive | None = None
    horizon_samples: Count = 2000

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.target_nats is not None and self.initial == 0:
            raise ConfigError(
                "initial: 0 is what it stays, whatever target_nats is",
                field="initial",
                reason="CONFLICT",
            )


def next_beta(beta: float, measured_nats: float, samples: int, config: KlConfig) -> float:
    """beta after an update that saw `samples` responses: beta (1 + clip(KL / target - 1, +-0.2)
    samples / horizon).
    """
    if config.target_nats is None:
        return beta
    error = measured_nats / config.target_nats - 1
    error = min(MAX_RELATIVE_ERROR, max(-MAX_RELATIVE_ERROR, error))
    return beta * (1 + error * samples / config.horizon_samples)
