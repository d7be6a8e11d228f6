"""Sequential tests of two histograms: one quantile, and the whole distribution.

Quantile: if the candidate's quantile is not above the incumbent's, the incumbent's true quantile q
separates both arms: a share of at most 1 - p of the candidate's values is above q, and a share of
at least 1 - p of the incumbent's is q or above. The evidence against these two rates is an
e-process at the true q, and so is its minimum over all q (Howard and Ramdas 2022 invert the same
two sums).
Distribution: the mean of e-processes at fixed values, each against "no larger share above".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sequential.figures import RATIO
from sequential.rates import Array, log_e_at, log_e_value, log_likelihood_ratio

BINS = 240  # up to 1.05^240, 121,000 ms or tokens; larger values count in the last bin
LEAST_LOG_E = 1.0
LOG_CAP = 700.0
EDGE_STEP = 4  # the distributions are compared at every fourth bin, a ratio of 1.2


def counts_by_bin(histogram: Mapping[int, int]) -> Array:
    """Return the counts as an array, [BINS]."""
    counts = np.zeros(BINS)
    for k, count in histogram.items():
        counts[min(k, BINS - 1)] += count
    return counts


def quantile(counts: Array, share: float) -> float:
    """Return the value below which a share of the counts lies, interpolated; 0 without counts."""
    below = np.cumsum(counts)
    if not below[-1]:
        return 0.0
    k = int(np.searchsorted(below, share * below[-1]))
    inside = (share * below[-1] - (below[k] - counts[k])) / counts[k]
    return float(RATIO ** (k + inside))


def log_e_quantile(candidate: Array, incumbent: Array, share: float, shift: int = 0) -> Array:
    """Return the log-evidence against "the candidate's quantile is not above the incumbent's".

    Quantiles are compared by bin.

    Args:
        candidate: counts, [..., BINS]; fractions are permitted (scaled counts).
        incumbent: counts, [..., BINS].
        share: for example 0.5 for the median.
        shift: permitted difference in bins.
    """
    other = _at_or_above(_shifted(incumbent, shift))
    above = _at_or_above(candidate) - candidate
    evidence = log_e_at(above, candidate.sum(axis=-1)[..., None], other, other[..., :1], 1 - share)
    lowest: Array = evidence.min(axis=-1)
    return lowest


def log_e_distribution(candidate: Array, incumbent: Array, shift: int = 0) -> Array:
    """Return the log-evidence against "no value has a larger share above in the candidate".

    Args:
        candidate: counts, [..., BINS]; fractions are permitted (scaled counts).
        incumbent: counts, [..., BINS].
        shift: permitted difference in bins.
    """
    counts = np.broadcast_arrays(*_above_edges(candidate, incumbent, shift))
    bounds = log_likelihood_ratio(counts[0], counts[1], counts[2], counts[3])
    # Values without evidence count as 0, which saves most of the time and lowers the mean a little.
    logs = np.full(bounds.shape, -np.inf)
    needed = bounds > LEAST_LOG_E
    if needed.any():
        first, trials, second, other_trials = (array[needed] for array in counts)
        logs[needed] = log_e_value(first, trials, second, other_trials)
    return _log_mean_exp(logs)


def log_bound_distribution(candidate: Array, incumbent: Array, shift: int = 0) -> Array:
    """Return an upper bound of `log_e_distribution`, quicker to compute."""
    first, trials, second, other_trials = _above_edges(candidate, incumbent, shift)
    return _log_mean_exp(log_likelihood_ratio(first, trials, second, other_trials))


def _above_edges(
    candidate: Array, incumbent: Array, shift: int
) -> tuple[Array, Array, Array, Array]:
    edges = slice(EDGE_STEP, None, EDGE_STEP)
    first, second = _at_or_above(candidate), _at_or_above(_shifted(incumbent, shift))
    return first[..., edges], first[..., :1], second[..., edges], second[..., :1]


def _at_or_above(counts: Array) -> Array:
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def _shifted(counts: Array, shift: int) -> Array:
    """Move all counts up by some bins."""
    if not shift:
        return counts
    moved = np.zeros_like(counts)
    moved[..., shift:] = counts[..., :-shift]
    moved[..., -1] += counts[..., -shift:].sum(axis=-1)
    return moved


def _log_mean_exp(logs: Array) -> Array:
    peak = np.maximum(logs.max(axis=-1), -LOG_CAP)
    with np.errstate(divide="ignore"):  # log(0) if no value has evidence
        mean: Array = peak + np.log(np.exp(logs - peak[..., None]).mean(axis=-1))
    return mean
