"""Sequential test of two rates: of events, or of shares between 0 and 1, one for each user.

For a pair of rates on the border of the null hypothesis, the likelihood of other rates divided by
that of the pair is a non-negative martingale, for any order of the arms' trials. The other rates
are a mixture around the pair, the first above and the second below, so the ratio is a
supermartingale for all pairs beyond the border, too. The minimum over all pairs is an e-process:
its probability of ever exceeding 1/alpha is at most alpha (Ville; Ramdas, Ruf, Larsson and Koolen
2020, arXiv 2009.03167). Of all equal rates, the one closest to two given rates is their mean
weighted by the trials (Turner, Ly and Grünwald 2021, arXiv 2106.02693), hence the border between.
For a share x and a rate m the ratio is (1 + e x) / (1 + e m), with e = exp(shift) - 1. Its mean is
at most 1 for every distribution with a mean of at most m (e > 0) or at least m (e < 0), a bet as in
Waudby-Smith and Ramdas 2024, arXiv 2010.09686. Why, and limits: docs/decisions/gate-and-canary.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Log-odds of the first rate above the second, with equal weights. The least is 2.5 points at 0.5.
EFFECTS = np.geomspace(0.1, 3.2, 8)
RARE_EFFECTS = np.array((0.4, 0.8, 1.2, 1.8, 2.6))  # for rates around 1 %
# Shares of users with many thumbs vary little, so that large bets pay. With 6 as the largest effect
# the evidence of a single user against any number of others stays below 17, and 20 decide.
SHARE_EFFECTS = np.geomspace(0.1, 6.0, 8)
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
    x1, n1, x2, n2 = (np.asarray(v, dtype=np.float64) for v in counts)
    up, down = mixture_shifts(effects)
    terms = x1[..., None] * up, x2[..., None] * -down
    return log_e_of_terms(terms[0], n1, terms[1], n2, tolerance, effects)


def log_e_shares(
    first: Mapping[float, float], second: Mapping[float, float], tolerance: float = 0.0
) -> float:
    """Return the log-evidence against "first mean share <= second mean share + tolerance".

    A weight w from 0 to 1 that is fixed before the user's share is known keeps the test valid: the
    mean of a factor X is at most 1, so that of X^w is too (E[X^w] <= E[X]^w, Jensen).

    Args:
        first: sum of the weights of the users of the first arm by their share, from 0 to 1.
        second: the same for the second arm.
        tolerance: permitted difference of the means, from -1 to 1, both exclusive.
    """
    up, down = mixture_shifts(SHARE_EFFECTS)
    sums, trials = [], []
    for arm, shifts in ((first, up), (second, -down)):
        shares, users = np.array(list(arm), float), np.array(list(arm.values()), float)
        sums.append(users @ share_terms(shares, shifts))
        trials.append(users.sum())
    log_e = log_e_of_terms(sums[0], trials[0], sums[1], trials[1], tolerance, SHARE_EFFECTS)
    return float(log_e)


def share_terms(shares: Array, shifts: Array) -> Array:
    """Return the logarithms of the numerators of users' shares, [..., shifts]."""
    terms: Array = np.log1p(shares[..., None] * np.expm1(shifts))
    return terms


def log_e_of_terms(
    first: Array,
    first_trials: Array,
    second: Array,
    second_trials: Array,
    tolerance: float,
    effects: Array,
) -> Array:
    """Return the log-evidence of `log_e_value` from sums of logarithms of numerators.

    Args:
        first: sums of the first arm by shift, [..., shifts].
        first_trials: trials of the first arm, [...].
        second: sums of the second arm by shift, [..., shifts].
        second_trials: trials of the second arm, [...].
        tolerance: permitted difference of the rates.
        effects: log-odds of the mixture.
    """
    up, down = mixture_shifts(effects)
    more, less = np.expm1(up), np.expm1(-down)
    n1, n2 = (np.asarray(n, dtype=np.float64)[..., None] for n in (first_trials, second_trials))

    def ratios(rate: Array) -> Array:
        logs: Array = first - n1 * np.log1p((rate + tolerance) * more)
        return logs + second - n2 * np.log1p(rate * less)

    # Each logarithm of the mixture is convex in the second rate, and so is that of their sum.
    low = np.full(n1.shape, max(0.0, -tolerance))
    high = np.full(n1.shape, min(1.0, 1.0 - tolerance))
    for _ in range(BISECTIONS):
        rate = (low + high) / 2
        logs = ratios(rate)
        weights = np.exp(logs - logs.max(axis=-1, keepdims=True))
        slopes = n1 * more / (1 + (rate + tolerance) * more) + n2 * less / (1 + rate * less)
        falls = (weights * slopes).sum(axis=-1, keepdims=True) > 0
        low, high = np.where(falls, rate, low), np.where(falls, high, rate)
    return _log_mean(ratios((low + high) / 2))


def log_e_at(
    first: Array,
    first_trials: Array,
    second: Array,
    second_trials: Array,
    rate: float,
) -> Array:
    """Return the log-evidence against "first rate <= rate <= second rate", [...]."""
    up, down = mixture_shifts(EFFECTS)
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


def mixture_shifts(effects: Array) -> tuple[Array, Array]:
    """Return the log-odds of the first rate above the border, and of the second below, [shifts]."""
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
