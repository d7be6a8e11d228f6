"""Figures of an evaluation: means with standard errors for clusters.

Several answers to a prompt are not independent, so a prompt is a cluster.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.96  # standard errors on each side of a 95 % interval
SAMPLES = "samples.jsonl"  # answers of both models, next to the figures


@dataclass(frozen=True)
class Estimate:
    """Mean with its standard error, over `clusters` (prompts) of `count` observations."""

    value: float
    error: float
    count: int
    clusters: int

    def low(self, z: float) -> float:
        return self.value - z * self.error

    def text(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


@dataclass(frozen=True)
class Samples:
    """Statistics of a model's answers to the held-out prompts."""

    mean_tokens: float
    ended_share: float


def clustered_mean(values: Sequence[float], clusters: Sequence[str]) -> Estimate:
    """Return the mean, with the standard error of a mean of clusters.

    The error is that of Liang and Zeger (1986) with the small-sample factor.

    If all values are 0 or all are 1, the sample error would be 0. In this case Agresti and Coull's
    two added observations of each kind give a positive error.
    """
    if not values:
        return Estimate(0.0, math.inf, 0, 0)
    mean = sum(values) / len(values)
    residuals: defaultdict[str, float] = defaultdict(float)
    for value, cluster in zip(values, clusters, strict=True):
        residuals[cluster] += value - mean
    groups = len(residuals)
    if groups < 2:
        return Estimate(mean, math.inf, len(values), groups)
    variance = sum(r * r for r in residuals.values()) / len(values) ** 2 * groups / (groups - 1)
    if max(values) == min(values) and 0 <= mean <= 1:
        # All answers agree: two added observations of each kind (Agresti and Coull).
        smoothed = (mean * groups + 2) / (groups + 4)
        variance += smoothed * (1 - smoothed) / (groups + 4)
    return Estimate(mean, math.sqrt(variance), len(values), groups)


def share_bounds(share: Estimate, z: float) -> tuple[float, float]:
    """Return Wilson's interval (1927) of a fraction, within [0, 1].

    The number of independent answers is derived from the standard error, and limited by the real
    number. Among intervals for fractions of clusters it has the best coverage for few clusters or
    extreme fractions (Dean and Pagano, J. Surv. Stat. Methodol. 3, 2015). If all clusters agree,
    their error is meaningless, and each cluster counts as one answer.
    """
    spread = share.value * (1 - share.value)
    agree = spread == 0 or share.error == 0
    answers = share.clusters if agree else min(share.count, spread / share.error**2)
    half = z * math.sqrt(answers * spread + z * z / 4)
    middle = answers * share.value + z * z / 2
    return max(0.0, (middle - half) / (answers + z * z)), min(
        1.0, (middle + half) / (answers + z * z)
    )


def change_bounds(change: Estimate, z: float) -> tuple[float, float]:
    """Return a symmetric interval of the change of a fraction, within [-1, 1]."""
    return max(-1.0, change.value - z * change.error), min(1.0, change.value + z * change.error)
