"""Weight of the KL penalty, fixed or adapted to a target (Ziegler et al., arXiv 1909.08593)."""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import ConfigError
from training.runtime.ranges import Count, NonNegative, Positive, check_ranges

MAX_RELATIVE_ERROR = 0.2  # one update moves beta by at most 20 % of samples / horizon


@dataclass(frozen=True)
class KlConfig:
    """Weight of the KL penalty (beta), and the KL that it is adapted to, if any.

    Attributes:
        initial: what a nat of KL to the reference costs in reward (beta), at least 0
        target_nats: KL per response that beta is adapted to, above 0; none: beta is fixed
        horizon_samples: responses over which beta is adapted, at least 1; more: slower
    """

    initial: NonNegative = 0.05
    target_nats: Positive | None = None
    horizon_samples: Count = 2000

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.target_nats is not None and self.initial == 0:
            raise ConfigError(
                "initial: beta stays 0 if it starts at 0, so target_nats has no effect",
                field="initial",
                reason="CONFLICT",
            )


def next_beta(beta: float, measured_nats: float, samples: int, config: KlConfig) -> float:
    """Return beta after an update with `samples` responses.

    beta (1 + clip(KL / target - 1, +-0.2) samples / horizon)
    """
    if config.target_nats is None:
        return beta
    error = measured_nats / config.target_nats - 1
    error = min(MAX_RELATIVE_ERROR, max(-MAX_RELATIVE_ERROR, error))
    return beta * (1 + error * samples / config.horizon_samples)
