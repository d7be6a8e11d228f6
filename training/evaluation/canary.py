"""Sequential test of the canary: the decision is valid at any time.

Each user counts once in a version, by the majority of the user's thumbs. The test is a mixture
likelihood ratio for two Bernoulli rates. For every pair of rates the product of the mixture ratios
of both arms is a non-negative martingale, for any mixture of the arms and any stopping time.
Divided by its maximum under the null hypothesis it is an e-process, which ever exceeds 1/alpha with
probability at most alpha (Ville; Robbins 1970; Ramdas et al. 2023, section 5).
Power and limits: docs/decisions/gate-and-canary.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import numpy as np
import numpy.typing as npt

from training.errors import ConfigError

GRID_RATES = 64
GRID_EFFECTS = (
    0.25,
    0.5,
    0.75,
    1.0,
    1.25,
    1.5,
    1.75,
    2.0,
    2.5,
    3.0,
)  # log-odds: from 50 % against 56 % to 50 % against 95 %
SEARCH_STEPS = 40  # steps of a ternary search on a concave function: (2/3)**40 is 9e-8
ADVISED_USERS = 20  # users of each version: below, a few friends of one user decide
LOG_E_CAP = 700.0  # exp() of larger values overflows


class Verdict(StrEnum):
    """Decision of the canary."""

    WAIT = "wait"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True)
class CanaryConfig:
    """Settings of the canary.

    Attributes:
        share: fraction of users who get the candidate.
        alpha: bound on the probability of each error over the whole canary.
        margin: promote a candidate that is not worse than the incumbent by more than this; 0
            requires a better candidate.
        min_users: users per version before any decision; the chart sets `ADVISED_USERS`.
        max_seconds: time after which an undecided canary is rolled back.
    """

    share: float = 0.2
    alpha: float = 0.05
    margin: float = 0.0
    min_users: int = 1
    max_seconds: float = 7 * 24 * 3600
    poll_seconds: float = 30.0
    lease_seconds: float = 900.0

    def __post_init__(self) -> None:
        _require(0 < self.share <= 0.5, "share", self.share, "above 0 and up to 0.5")
        _require(0 < self.alpha < 0.5, "alpha", self.alpha, "between 0 and 0.5")
        _require(0 <= self.margin < 0.5, "margin", self.margin, "from 0 to below 0.5")
        _require(self.min_users >= 1, "min_users", self.min_users, "at least 1")
        _require(
            10 <= self.lease_seconds <= 86_400,
            "lease_seconds",
            self.lease_seconds,
            "from 10 to 86400",
        )
        _require(
            0 < self.poll_seconds <= self.lease_seconds / 3,
            "poll_seconds",
            self.poll_seconds,
            "above 0 and up to a third of lease_seconds",
        )


@dataclass(frozen=True)
class Thumbs:
    """Users of a version by the majority of their current thumbs. Ties count for neither side."""

    up: int = 0
    down: int = 0

    @property
    def total(self) -> int:
        return self.up + self.down

    @property
    def rate(self) -> float:
        return self.up / self.total if self.total else 0.0


@dataclass(frozen=True)
class Reading:
    """State of the test. e_better and e_worse are e-values against "not better" and "not worse"."""

    candidate: Thumbs
    incumbent: Thumbs
    e_better: float
    e_worse: float
    verdict: Verdict
    reason: str

    def text(self) -> str:
        """Describe the reading in a single line."""
        new, old = self.candidate, self.incumbent
        return (
            f"candidate {new.up}/{new.total} up, incumbent {old.up}/{old.total} up: {self.reason}"
        )


def evaluate_thumbs(candidate: Thumbs, incumbent: Thumbs, config: CanaryConfig) -> Reading:
    """Evaluate the majorities of the users; valid at every poll.

    The reason of a decision by fewer users than `ADVISED_USERS` in a version says so.
    """
    e_better = _e_value(candidate, incumbent, config.margin)
    e_worse = _e_value(incumbent, candidate, 0.0)
    verdict, reason = Verdict.WAIT, "undecided"
    if min(candidate.total, incumbent.total) < config.min_users:
        reason = f"{candidate.total} and {incumbent.total} users, {config.min_users} of each needed"
    elif e_worse >= 1 / config.alpha:
        verdict, reason = (
            Verdict.ROLL_BACK,
            f"fewer users satisfied: {_rates(candidate, incumbent)}",
        )
    elif e_better >= 1 / config.alpha:
        finding = "more users satisfied"
        if config.margin > 0:
            finding = f"satisfied users not more than {config.margin:.0%} below the incumbent's"
        verdict, reason = Verdict.PROMOTE, f"{finding}: {_rates(candidate, incumbent)}"
    if verdict is not Verdict.WAIT and min(candidate.total, incumbent.total) < ADVISED_USERS:
        reason += f"; decided by fewer than {ADVISED_USERS} users of a version"
    return Reading(candidate, incumbent, e_better, e_worse, verdict, reason)


def _e_value(first: Thumbs, second: Thumbs, margin: float) -> float:
    """Return the evidence against "rate of first <= rate of second - margin"."""
    return math.exp(
        min(_log_mixture(first, second) - _best_under_null(first, second, margin), LOG_E_CAP)
    )


def _log_mixture(first: Thumbs, second: Thumbs) -> float:
    """Return the log of the mean likelihood over the prior.

    The prior covers rates of the second arm in (0, 1), and log-odds of the first arm above it.

    Any prior is valid. This prior on the side of the hypothesis needs a quarter fewer thumbs than
    two independent priors.
    """
    first_up, first_down, second_up, second_down = _log_prior_rates()
    likelihood = first.up * first_up + first.down * first_down
    likelihood += (second.up * second_up + second.down * second_down)[:, None]
    peak = float(likelihood.max())
    return peak + math.log(float(np.exp(likelihood - peak).mean()))


@cache
def _log_prior_rates() -> tuple[
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
]:
    """Return log-rates of up and down of the first, [rates, effects], and the second, [rates]."""
    rates = (np.arange(GRID_RATES) + 0.5) / GRID_RATES
    odds = np.log(rates / (1 - rates))[:, None] + np.array(GRID_EFFECTS)[None, :]
    return -np.logaddexp(0, -odds), -np.logaddexp(0, odds), np.log(rates), np.log1p(-rates)


def _best_under_null(first: Thumbs, second: Thumbs, margin: float) -> float:
    """Return the maximum log-likelihood with p_first <= p_second - margin.

    On the border the log-likelihood is concave in p_second.
    """
    if first.rate <= second.rate - margin:
        return _log_likelihood(first, first.rate) + _log_likelihood(second, second.rate)
    low, high = margin, 1.0
    for _ in range(SEARCH_STEPS):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if _on_border(first, second, left, margin) < _on_border(first, second, right, margin):
            low = left
        else:
            high = right
    return _on_border(first, second, (low + high) / 2, margin)


def _on_border(first: Thumbs, second: Thumbs, rate: float, margin: float) -> float:
    return _log_likelihood(first, rate - margin) + _log_likelihood(second, rate)


def _log_likelihood(thumbs: Thumbs, rate: float) -> float:
    return _xlogy(thumbs.up, rate) + _xlogy(thumbs.down, 1 - rate)


def _xlogy(count: int, probability: float) -> float:
    if count == 0:
        return 0.0
    return count * math.log(probability) if probability > 0 else -math.inf


def _rates(candidate: Thumbs, incumbent: Thumbs) -> str:
    return (
        f"{candidate.rate:.0%} of {candidate.total} users "
        f"against {incumbent.rate:.0%} of {incumbent.total}"
    )


def _require(condition: bool, field: str, value: float, limit: str) -> None:
    if not condition:
        raise ConfigError(
            f"{field}: {value} is not {limit}", field=field, reason="OUT_OF_RANGE", limit=limit
        )
