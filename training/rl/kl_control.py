"""The weight of the KL penalty: fixed, or following a target (Ziegler et al., arXiv 1909.08593)."""

from __future__ import annotations

from dataclasses import dataclass

MAX_RELATIVE_ERROR = 0.2  # one update moves beta by at most 20 % of samples / horizon


@dataclass(frozen=True)
class KlConfig:
    """beta stays at `initial` where target_nats is None, else it follows the measured KL."""

    initial: float = 0.05
    target_nats: float | None = None  # per response
    horizon_samples: int = 2000


def next_beta(beta: float, measured_nats: float, samples: int, config: KlConfig) -> float:
    """beta after an update that saw `samples` responses: beta (1 + clip(KL / target - 1, +-0.2) samples / horizon)."""
    if config.target_nats is None:
        return beta
    error = measured_nats / config.target_nats - 1
    error = min(MAX_RELATIVE_ERROR, max(-MAX_RELATIVE_ERROR, error))
    return beta * (1 + error * samples / config.horizon_samples)
