"""Sequential test of two Bernoulli rates.

For every pair of rates, the mixture of likelihoods over a prior divided by the likelihood of that
pair is a non-negative martingale, for any order of the arms' trials. Divided by the maximum under
the null hypothesis, the mixture is an e-process: it ever exceeds 1/alpha with probability at most
alpha (Ville; Robbins 1970; Ramdas et al. 2023, section 5). All functions take arrays.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Effects of the prior: log-odds of the first arm above the second. An effect that is listed twice
# has the double weight: small effects need many trials, and gain most.
EFFECTS = np.array((0.15, 0.2, 0.25, 0.3, 0.4, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0))
RARE_EFFECTS = np.array((0.4, 0.8, 1.2, 1.8, 2.6))


class Prior(NamedTuple):
    """Prior of the alternative.

    Attributes:
        up: first parameter of the Beta distribution of the second rate.
        down: second parameter.
        effects: log-odds of the first rate above the second.
    """

    up: float
    down: float
    effects: Array


UNIFORM = Prior(1.0, 1.0, EFFECTS)
LOW = Prior(1.0, 5.0, EFFECTS)  # rates of a few per cent
RARE = Prior(1.0, 50.0, RARE_EFFECTS)  # rates around 1 %
BISECTIONS = 32
# Nodes of the trapezoidal rule in standard deviations around the peak. The neglected tails are
# positive, so the e-value is never too large.
NODES = np.linspace(-10.0, 10.0, 61)


def log_e_value(
    first: Array | float,
    first_trials: Array | float,
    second: Array | float,
    second_trials: Array | float,
    tolerance: float = 0.0,
    prior: Prior = UNIFORM,
) -> Array:
    """Return the logarithm of the evidence against "first rate <= second rate + tolerance".

    Args:
        first: events of the first arm, [...]; fractions are permitted (scaled counts).
        first_trials: trials of the first arm, [...].
        second: events of the second arm, [...].
        second_trials: trials of the second arm, [...].
        tolerance: permitted difference of the rates, from -1 to 1, both exclusive.
        prior: prior of the alternative; any prior is valid, and power depends on the prior.
    """
    x1, n1, x2, n2 = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64) for v in (first, first_trials, second, second_trials))
    )
    return _log_mixture(x1, n1, x2, n2, prior) - _log_null(x1, n1, x2, n2, tolerance)


def log_likelihood_ratio(
    first: Array | float,
    first_trials: Array | float,
    second: Array | float,
    second_trials: Array | float,
    tolerance: float = 0.0,
) -> Array:
    """Return an upper bound of `log_e_value`: the best likelihood in place of the mixture."""
    x1, n1, x2, n2 = np.broadcast_arrays(
        *(np.asarray(v, dtype=np.float64) for v in (first, first_trials, second, second_trials))
    )
    best = _log_likelihood(x1, n1, _share(x1, n1)) + _log_likelihood(x2, n2, _share(x2, n2))
    return best - _log_null(x1, n1, x2, n2, tolerance)


def log_one_rate(events: Array, trials: Array, rate: float) -> Array:
    """Return the logarithm of the evidence against "the rate of the events <= rate", [...].

    The prior has an atom without an effect, so that the evidence never falls below its weight.
    """
    shifted = np.log(rate / (1 - rate)) + EFFECTS
    up = -np.logaddexp(0.0, -shifted) - np.log(rate)
    down = -np.logaddexp(0.0, shifted) - np.log1p(-rate)
    gains = events[..., None] * up + (trials - events)[..., None] * down
    evidence: Array = np.logaddexp(_log_sum(gains) - math.log(len(EFFECTS)), 0.0) - math.log(2.0)
    return evidence


def _log_mixture(x1: Array, n1: Array, x2: Array, n2: Array, prior: Prior) -> Array:
    """Return the log of the mean likelihood, without the binomial coefficients, [...]."""
    a, b, effects = prior
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    x1, n1, x2, n2 = (v[..., None] for v in (x1, n1, x2 + a, n2 + a + b))
    # The logarithm of the integrand over the log-odds of the second arm is concave.
    low = np.full(np.broadcast_shapes(x1.shape, effects.shape), -40.0)
    high = -low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rises = x1 + x2 > n1 * _logistic(middle + effects) + n2 * _logistic(middle)
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    peak = (low + high) / 2
    p1, p2 = _logistic(peak + effects), _logistic(peak)
    width = 1 / np.sqrt(n1 * p1 * (1 - p1) + n2 * p2 * (1 - p2))
    odds = peak[..., None] + width[..., None] * NODES
    x1, n1, x2, n2 = (v[..., None] for v in (x1, n1, x2, n2))
    shifted = odds + effects[:, None]
    logs = x1 * shifted - n1 * np.logaddexp(0.0, shifted) + x2 * odds - n2 * np.logaddexp(0.0, odds)
    integrals = _log_sum(logs) + np.log(width * (NODES[1] - NODES[0])) - log_beta
    return _log_sum(integrals) - math.log(len(effects))


def _log_null(x1: Array, n1: Array, x2: Array, n2: Array, tolerance: float) -> Array:
    """Return the maximum log-likelihood with first rate <= second rate + tolerance, [...].

    On the border the log-likelihood is concave in the second rate, so its slope only falls.
    """
    rate1, rate2 = _share(x1, n1), _share(x2, n2)
    free = _log_likelihood(x1, n1, rate1) + _log_likelihood(x2, n2, rate2)
    if tolerance == 0.0:
        pooled = _share(x1 + x2, n1 + n2)
        border = _log_likelihood(x1 + x2, n1 + n2, pooled)
    else:
        low = np.full(x1.shape, max(0.0, -tolerance))
        high = np.full(x1.shape, min(1.0, 1.0 - tolerance))
        for _ in range(BISECTIONS):
            rate = (low + high) / 2
            slope = x1 / (rate + tolerance) - (n1 - x1) / (1 - rate - tolerance)
            rises = slope + x2 / rate > (n2 - x2) / (1 - rate)
            low, high = np.where(rises, rate, low), np.where(rises, high, rate)
        rate = (low + high) / 2
        border = _log_likelihood(x1, n1, rate + tolerance) + _log_likelihood(x2, n2, rate)
    return np.where(rate1 <= rate2 + tolerance, free, border)


def _log_likelihood(x: Array, n: Array, rate: Array) -> Array:
    """Return x log(rate) + (n - x) log(1 - rate), where 0 log(0) is 0."""
    tiny = np.finfo(np.float64).tiny
    return x * np.log(np.maximum(rate, tiny)) + (n - x) * np.log(np.maximum(1 - rate, tiny))


def _share(x: Array, n: Array) -> Array:
    share: Array = x / np.maximum(n, np.finfo(np.float64).tiny)
    return share


def _logistic(odds: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(odds / 2)


def _log_sum(logs: Array) -> Array:
    """Return log(sum(exp)) over the last axis."""
    peak = logs.max(axis=-1)
    total: Array = peak + np.log(np.exp(logs - peak[..., None]).sum(axis=-1))
    return total
