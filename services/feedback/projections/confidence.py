"""Confidence interval of a thumbs-up rate, valid at every look (anytime-valid).

The mixture of all rates divided by the likelihood of the true rate is a non-negative martingale
starting at 1. Its probability of ever exceeding 1/alpha is at most alpha (Ville; Robbins 1970). The
interval holds all rates below that bound. The canary of training decides by the same mixture on a
grid; a test compares both.
"""

import math
from dataclasses import dataclass

# Probability of ever excluding the true rate, at any number of looks.
ALPHA = 0.05
# Bisection steps; 2**-40 is a negligible error of a rate.
STEPS = 40


@dataclass(frozen=True)
class Interval:
    """Interval of rates from 0 to 1."""

    low: float
    high: float


def interval(up: int, down: int, alpha: float = ALPHA) -> Interval:
    """Return the interval of a rate from its counts; without votes the interval is [0, 1]."""
    if not up + down:
        return Interval(0.0, 1.0)
    estimate = up / (up + down)
    threshold = log_mixture(up, down) + math.log(alpha)
    low = 0.0 if not up else _boundary(up, down, 0.0, estimate, threshold)
    high = 1.0 if not down else _boundary(up, down, 1.0, estimate, threshold)
    return Interval(low, high)


def log_mixture(up: int, down: int) -> float:
    """Return log of the mean likelihood over all rates, the Beta function of the counts."""
    return math.lgamma(up + 1) + math.lgamma(down + 1) - math.lgamma(up + down + 2)


def log_likelihood(up: int, down: int, rate: float) -> float:
    """Return the log likelihood of counts for a rate between 0 and 1."""
    return (up * math.log(rate) if up else 0.0) + (down * math.log1p(-rate) if down else 0.0)


def _boundary(up: int, down: int, outside: float, inside: float, threshold: float) -> float:
    """Find the rate with log likelihood `threshold` between the estimate and an end, by bisection.

    On each side of the estimate the likelihood only falls.
    """
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        if log_likelihood(up, down, middle) > threshold:
            inside = middle
        else:
            outside = middle
    return outside
