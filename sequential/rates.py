"""Sequential test of two Bernoulli rates.

For a pair of rates on the border of the null hypothesis, the likelihood of other rates divided by
that of the pair is a non-negative martingale, for any order of the arms' trials. The other rates
are a mixture around the pair, the first above and the second below, so the ratio is a
supermartingale for all pairs beyond the border, too. The minimum over all pairs is an e-process:
its probability of ever exceeding 1/alpha is at most alpha (Ville; Ramdas, Ruf, Larsson and Koolen
2020, arXiv 2009.03167). One mixture for all pairs (universal inference) would cost a prior of the
unknown rate, half the logarithm of the trials. Of all equal rates, the one closest to two given
rates is their mean weighted by the trials (Turner, Ly and Grünwald 2021, arXiv 2106.02693), hence
the border between both rates. All functions take arrays.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Log-odds of the first rate above the second, with equal weights. The least is 2.5 points at 0.5.
EFFECTS = np.geomspace(0.1, 3.2, 8)
RARE_EFFECTS = np.array((0.4, 0.8, 1.2, 1.8, 2.6))  # for rates around 1 %
# Parts of an effect by which the second rate is below the border, the rest lifts the first. Best is
# the first arm's share of the trials, which is unknown; the distances are even for its arcsine.
PARTS = np.sin(np.linspace(0.0, math.pi / 2, 7)) ** 2
BISECTIONS = 32


def log_e_value(
    first: Array | float,
    first_trials: Array | float,
    second: Array | float,
    second_trials: Array | float,
    tolerance: float = 0.0,
    effects: Array = EFFECTS,
) -> Array:
    """Return the logarithm of the evidence against "first rate <= second rate + tolerance".

    Args:
        first: events of the first arm, [...]; fractions are permitted (scaled counts).
        first_trials: trials of the first arm, [...].
        second: events of the second arm, [...].
        second_trials: trials of the second arm, [...].
        tolerance: permitted difference of the rates, from -1 to 1, both exclusive.
        effects: log-odds of the mixture; any are valid, and power depends on them.
    """
    counts = np.broadcast_arrays(first, first_trials, second, second_trials)
    x1, n1, x2, n2 = (np.asarray(v, dtype=np.float64)[..., None] for v in counts)
    up, down = _shifts(effects)
    more, less = np.expm1(up), np.expm1(-down)
    # Each logarithm of the mixture is convex in the second rate, and so is that of their sum.
    low = np.full(x1.shape, max(0.0, -tolerance))
    high = np.full(x1.shape, min(1.0, 1.0 - tolerance))
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        logs = log_ratios(x1, n1, rate + tolerance, up) + log_ratios(x2, n2, rate, -down)
        weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
        slopes = n1 * more / (1 + (rate + tolerance) * more) + n2 * less / (1 + rate * less)
        falls = (weights * slopes).sum(axis=-1, keepdims=True) > 0
        low, high = np.where(falls, rate, low), np.where(falls, high, rate)
    rate = (low + high) / 2
    return _log_mean(log_ratios(x1, n1, rate + tolerance, up) + log_ratios(x2, n2, rate, -down))


def log_e_at(
    first: Array,
    first_trials: Array,
    second: Array,
    second_trials: Array,
    rate: float,
) -> Array:
    """Return the log-evidence against "first rate <= rate <= second rate", [...]."""
    up, down = _shifts(EFFECTS)
    return _log_mean(
        log_ratios(first[..., None], first_trials[..., None], rate, up)
        + log_ratios(second[..., None], second_trials[..., None], rate, -down)
    )


def log_ratios(events: Array, trials: Array, rate: Array | float, shifts: Array) -> Array:
    """Return the log-likelihood ratios of other rates against a rate, [...].

    Args:
        events: [...].
        trials: [...].
        rate: rate under the hypothesis, from 0 to 1, [...].
        shifts: log-odds of the other rates above those of the rate, [...].
    """
    ratios: Array = events * shifts - trials * np.log1p(rate * np.expm1(shifts))
    return ratios


def log_likelihood_ratio(
    first: Array, first_trials: Array, second: Array, second_trials: Array
) -> Array:
    """Return an upper bound of `log_e_value` without tolerance, quicker to compute."""
    x1, n1, x2, n2 = first, first_trials, second, second_trials
    rate1, rate2 = _share(x1, n1), _share(x2, n2)
    best = _log_likelihood(x1, n1, rate1) + _log_likelihood(x2, n2, rate2)
    equal = _log_likelihood(x1 + x2, n1 + n2, _share(x1 + x2, n1 + n2))
    return np.where(rate1 > rate2, best - equal, 0.0)


def _shifts(effects: Array) -> tuple[Array, Array]:
    """Return the log-odds of the first rate above the border, and of the second below."""
    return np.outer(effects, 1 - PARTS).ravel(), np.outer(effects, PARTS).ravel()


def _log_mean(logs: Array) -> Array:
    """Return log(mean(exp)) over the last axis."""
    peak = logs.max(axis=-1)
    mean: Array = peak + np.log(np.exp(logs - peak[..., None]).mean(axis=-1))
    return mean


def _log_likelihood(x: Array, n: Array, rate: Array) -> Array:
    """Return x log(rate) + (n - x) log(1 - rate), where 0 log(0) is 0."""
    tiny = np.finfo(np.float64).tiny
    return x * np.log(np.maximum(rate, tiny)) + (n - x) * np.log(np.maximum(1 - rate, tiny))


def _share(x: Array, n: Array) -> Array:
    share: Array = x / np.maximum(n, np.finfo(np.float64).tiny)
    return share
