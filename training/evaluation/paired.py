"""Paired comparison of candidate and incumbent on the same items, with one-sided 95 % bounds.

The bounds are percentiles of a bootstrap over clusters (Efron and Tibshirani 1993, chapter 13),
because items that share a prompt are not independent. The resamples have a fixed seed, so every
resampled mean rises or stays if the difference of an item rises: a verdict never improves because
an item got worse. A Wald bound lacks this property, since a worse item can shrink its error.

A bootstrap of few observations is too narrow in two ways. The percentile is therefore that of the t
distribution (the expanded percentile of Hesterberg, Am. Stat. 69, 2015). And for shares, items
without any observed loss would give an interval of width 0, so one lost item is added to the lower
bound and one won item to the upper bound. With it, n items without a loss bound the drop by 3/n,
which is the exact bound (the "rule of three").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from training.artifacts.scores import ItemScore, ScoreError, by_item
from training.figures import Samples

RESAMPLES = 4000  # the bound moves by 3 % of a standard error between seeds
ROWS = 256  # resamples computed at once, which limits the memory for 10,000 items to 20 MB
SEED = 20_261_128
ONE_SIDED = 0.95


@dataclass(frozen=True)
class Paired:
    """Means of both versions and their difference, candidate minus incumbent.

    Attributes:
        low: one-sided 95 % lower bound of the difference; -inf with fewer than two clusters.
        high: one-sided 95 % upper bound; inf with fewer than two clusters.
        items: pairs of observations.
        clusters: independent groups of items.
    """

    candidate: float
    incumbent: float
    difference: float
    low: float
    high: float
    items: int
    clusters: int

    def fields(self) -> dict[str, float | int | None]:
        """Return the figures for JSON, in which an infinite bound is null."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


@dataclass(frozen=True)
class Comparison:
    """Measurements of candidate and incumbent on the prompts and probes of a recipe.

    Attributes:
        win_rate: share of answers that the second reward model prefers; a tie counts half.
        judged: the same by a judge of the operator, if any.
        invalid: share of this judge's answers that name neither an answer nor a tie.
        retention: bits per byte of the fixed texts; lower is better.
        knowledge, refusals: share of correct answers to the recipe's probes.
        sycophancy: the same after a false claim of the user; None without such probes.
    """

    win_rate: Paired
    retention: Paired
    knowledge: Paired
    refusals: Paired
    candidate: Samples
    incumbent: Samples
    sycophancy: Paired | None = None
    judged: Paired | None = None
    invalid: float = 0.0


def paired_items(
    candidate: Sequence[ItemScore], incumbent: Sequence[ItemScore], *, share: bool
) -> Paired:
    """Compare two lists of scores with the same items.

    Args:
        share: the values are shares from 0 to 1, see `paired`.

    Raises:
        ScoreError: an item has only one of both values, or occurs twice.
    """
    new, old = by_item(candidate), by_item(incumbent)
    if not new.keys() == old.keys() or (len(new), len(old)) != (len(candidate), len(incumbent)):
        raise ScoreError("items: the lists of items differ, or an item occurs twice", field="items")
    names = sorted(new)
    return paired(
        [new[name].value for name in names],
        [old[name].value for name in names],
        names,
        [old[name].weight for name in names],
        share=share,
    )


def paired(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    clusters: Sequence[str],
    weights: Sequence[float] | None = None,
    *,
    share: bool,
) -> Paired:
    """Compare the values of both versions on the same observations, in the same order.

    Args:
        clusters: name of the group of each observation, for example its prompt.
        weights: weight of each observation in the means; None: equal weights.
        share: the values are shares from 0 to 1; a lost item is added to the lower bound, and a won
            item to the upper bound.
    """
    new, old = np.asarray(candidate, float), np.asarray(incumbent, float)
    weight = np.ones(len(new)) if weights is None else np.asarray(weights, float)
    _, group = np.unique(np.asarray(clusters, str), return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    total = float(weight.sum())
    if total == 0:
        return Paired(math.nan, math.nan, math.nan, -math.inf, math.inf, 0, 0)
    sums = np.bincount(group, weight * (new - old), count)
    sizes = np.bincount(group, weight, count)
    low, high = -math.inf, math.inf
    if count >= 2:
        added = (total / count,) if share else ()
        low = _low(np.append(sums, [-size for size in added]), np.append(sizes, added))
        high = -_low(np.append(-sums, [-size for size in added]), np.append(sizes, added))
    return Paired(
        candidate=float((weight * new).sum()) / total,
        incumbent=float((weight * old).sum()) / total,
        difference=float(sums.sum()) / total,
        low=low,
        high=high,
        items=len(new),
        clusters=count,
    )


def read_paired(fields: dict[str, Any]) -> Paired:
    """Read figures that `Paired.fields` wrote."""
    low, high = fields["low"], fields["high"]
    bounds = {"low": -math.inf if low is None else low, "high": math.inf if high is None else high}
    return Paired(**{**fields, **bounds})


def _low(sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> float:
    """Return the lower bound of sum(sums) / sum(sizes), resampled over clusters."""
    generator, count = np.random.default_rng(SEED), len(sums)
    means = []
    for start in range(0, RESAMPLES, ROWS):
        rows = min(ROWS, RESAMPLES - start)
        picked = generator.integers(0, count, (rows, count))
        means.append(sums[picked].sum(1) / sizes[picked].sum(1))
    # The expanded percentile: that of a t quantile and the unbiased variance. The t quantile is its
    # Cornish-Fisher expansion to the second order, which is 1 % too low with 10 observations.
    z, freedom = NormalDist().inv_cdf(ONE_SIDED), count - 1
    quantile = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    percentile = NormalDist().cdf(-quantile * math.sqrt(count / freedom))
    return float(np.sort(np.concatenate(means))[math.floor(percentile * RESAMPLES)])
