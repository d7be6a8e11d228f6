"""Between which rates of thumbs up the truth lies, at whatever time one looks.

The mixture of all rates divided by the likelihood of the true one is a non-negative martingale that
begins at 1, so it ever passes 1/alpha with probability at most alpha (Ville; Robbins 1970). Rates
that it has not passed are the interval. Training's canary decides by the same mixture, on a grid; a
test holds the two together.
"""

import math
from dataclasses import dataclass

# Of ever leaving the truth out, however often one looks.
ALPHA = 0.05
# Halvings: 2**-40 of a rate is nothing.
STEPS = 40


@dataclass(frozen=True)
class Interval:
    """Rates, 0 to 1."""

    low: float
    high: float


def interval(up: int, down: int, alpha: float = ALPHA) -> Interval:
    """Of a rate that gave so many thumbs up and down. Nothing said: everything is possible."""
    if not up + down:
        return Interval(0.0, 1.0)
    estimate = up / (up + down)
    threshold = log_mixture(up, down) + math.log(alpha)
    low = 0.0 if not up else _boundary(up, down, 0.0, estimate, threshold)
    high = 1.0 if not down else _boundary(up, down, 1.0, estimate, threshold)
    return Interval(low, high)


def log_mixture(up: int, down: int) -> float:
    """log of the likelihood's mean over all rates, which is the Beta function of the counts."""
    return math.lgamma(up + 1) + math.lgamma(down + 1) - math.lgamma(up + down + 2)


def log_likelihood(up: int, down: int, rate: float) -> float:
    """Of counts under a rate between 0 and 1."""
    return (up * math.log(rate) if up else 0.0) + (down * math.log1p(-rate) if down else 0.0)


def _boundary(up: int, down: int, outside: float, inside: float, threshold: float) -> float:
    """Where the likelihood falls to `least` between the best rate and an end; on each side of the
    best one it only falls.
    """
    for _ in range(STEPS):
        middle = (outside + inside) / 2
        if log_likelihood(up, down, middle) > threshold:
            inside = middle
        else:
            outside = middle
    return outside
