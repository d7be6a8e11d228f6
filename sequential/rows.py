"""Table of sequential tests of a candidate against an incumbent.

Each row has a share of alpha (Bonferroni), so a false alarm of any row at any time has probability
at most alpha. Thumbs count each user once, by the user's share of thumbs up, so their test needs no
assumption on users except that they are independent. All other trials repeat users; their counts
are divided by the design effect before the test (Rao and Scott 1992), which is exact for many
users. Shares that still move: docs/decisions/gate-and-canary.md. Simulations: benchmarks/canary.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sequential.figures import RATIO, Approval, RateSums, VersionFigures
from sequential.histograms import counts_by_bin, log_e_distribution, log_e_quantile, quantile
from sequential.rates import RARE_EFFECTS, Array, log_e_shares, log_e_value

ADVISED_USERS = 20  # users of each version: below, a few friends of one user decide
LOG_E_CAP = 700.0  # exp() of larger values overflows

# Shares of alpha. Thumbs are scarce and decide most; latency and errors come with every request.
ALPHA_SHARES = {
    "thumbs": 0.50,
    "errors": 0.12,
    "first text p50": 0.08,
    "first text p95": 0.04,
    "first text": 0.04,
    "answer length": 0.03,
    "cost": 0.03,
    "refused": 0.04,
    "retracted": 0.04,
    "asked_again": 0.02,
    "edited": 0.02,
    "stopped": 0.02,
    "left": 0.02,
}
# Permitted increases of rates. With enough traffic any difference is found, however small.
ERROR_TOLERANCE = 0.001
RATE_TOLERANCES = {
    "refused": 0.01,
    "retracted": 0.02,
    "asked_again": 0.02,
    "edited": 0.02,
    "stopped": 0.02,
    # Good answers end conversations too, so only a rise that they hardly explain is harm.
    "left": 0.10,
}
SHOWN_ONLY = "copied"  # copying may express approval or not


@dataclass(frozen=True)
class HistogramTest:
    """Test of a histogram.

    Attributes:
        figures: attribute of VersionFigures.
        unit: unit of the values.
        share: quantile to compare; None compares whole distributions.
        shift: permitted increase in bins.
        correlation: assumed correlation of the values of a user.
    """

    figures: str
    unit: str
    share: float | None
    shift: int
    correlation: float


# A median rises by a bin before the test can tell, hence no further tolerance. Latency depends
# little on the user, while users keep their topics and long conversations.
HISTOGRAM_TESTS = {
    "first text p50": HistogramTest("first_text_ms", "ms", 0.5, 0, 0.1),
    "first text p95": HistogramTest("first_text_ms", "ms", 0.95, 1, 0.1),
    "first text": HistogramTest("first_text_ms", "ms", None, 2, 0.1),
    "answer length": HistogramTest("answer_tokens", "tokens", None, 8, 0.5),
    "cost": HistogramTest("total_tokens", "tokens", None, 5, 0.5),
}
# Correlation of a user's trials: the least for rates, whose correlation is estimated, and that of
# errors.
RATE_CORRELATION = 0.1
# Mean requests of the user of a request, if the figures contain no sums over users.
ASSUMED_REPETITION = 10.0


class Verdict(StrEnum):
    """Decision of a comparison."""

    WAIT = "wait"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True)
class Row:
    """Row of the table.

    Attributes:
        name: for example "thumbs", "errors", "first text p50".
        candidate: the candidate's figure as text.
        incumbent: the incumbent's figure as text.
        limit: the permitted difference as text.
        e_worse: e-value against "not worse than the limit".
        verdict: ROLL_BACK if the row shows harm; PROMOTE only for the row of thumbs.
        e_better: e-value against "not better" of the row of thumbs; 1 in other rows.
    """

    name: str
    candidate: str
    incumbent: str
    limit: str
    e_worse: float
    verdict: Verdict
    e_better: float = 1.0


@dataclass(frozen=True)
class RowsConfig:
    """Settings of the comparison.

    Attributes:
        alpha: bound on the probability of a false alarm over all rows and the whole time.
        margin: promote a candidate whose approval is not more than this below the incumbent's; 0
            requires a better candidate.
        min_users: rating users of each version, by their weights, before a decision by thumbs.
    """

    alpha: float = 0.05
    margin: float = 0.0
    min_users: int = 1


@dataclass(frozen=True)
class Judgement:
    """Table with its verdict and the reason in a single line."""

    rows: tuple[Row, ...]
    verdict: Verdict
    reason: str

    @property
    def thumbs(self) -> Row:
        """The row of thumbs, the first one."""
        return self.rows[0]


def judge(candidate: VersionFigures, incumbent: VersionFigures, config: RowsConfig) -> Judgement:
    """Compare two versions; valid at every look.

    Any row that shows harm gives ROLL_BACK. Thumbs alone give PROMOTE, if no row shows harm.
    """
    thumbs, undecided = _thumbs(candidate, incumbent, config)
    rows = (
        thumbs,
        _errors(candidate, incumbent, config.alpha),
        *_histograms(candidate, incumbent, config.alpha),
        *_rates(candidate, incumbent, config.alpha),
    )
    harmful = [row for row in rows if row.verdict is Verdict.ROLL_BACK]
    if harmful:
        worst = max(harmful, key=lambda row: row.e_worse * ALPHA_SHARES[row.name])
        reason = f"{worst.name}: {worst.candidate} against {worst.incumbent}, limit {worst.limit}"
        if worst is thumbs:
            reason = f"lower approval: {_approvals(candidate, incumbent)}"
        return Judgement(rows, Verdict.ROLL_BACK, reason)
    if thumbs.verdict is Verdict.PROMOTE:
        finding = "higher approval"
        if config.margin > 0:
            finding = f"approval not more than {config.margin:.0%} below the incumbent's"
        reason = f"{finding}: {_approvals(candidate, incumbent)}"
        return Judgement(rows, Verdict.PROMOTE, reason)
    return Judgement(rows, Verdict.WAIT, undecided)


def _thumbs(
    candidate: VersionFigures, incumbent: VersionFigures, config: RowsConfig
) -> tuple[Row, str]:
    """Return the row, and the reason of WAIT."""
    shares, other_shares = candidate.user_shares, incumbent.user_shares
    e_better = _e(log_e_shares(shares, other_shares, -config.margin))
    e_worse = _e(log_e_shares(other_shares, shares))
    users, other_users = candidate.approval.users, incumbent.approval.users
    verdict, reason = Verdict.WAIT, "undecided"
    if min(users, other_users) < config.min_users:
        reason = f"{users:,.10g} and {other_users:,.10g} users, {config.min_users} of each needed"
    elif e_worse >= 1 / (config.alpha * ALPHA_SHARES["thumbs"]):
        verdict = Verdict.ROLL_BACK
    elif e_better >= 1 / config.alpha:
        verdict = Verdict.PROMOTE
    figures = (_approval(candidate.approval), _approval(incumbent.approval))
    return Row("thumbs", *figures, "no lower approval", e_worse, verdict, e_better), reason


def _errors(candidate: VersionFigures, incumbent: VersionFigures, alpha: float) -> Row:
    arms = candidate, incumbent
    log_e = 0.0
    if all(arm.requests for arm in arms):
        effects = [1 + RATE_CORRELATION * (_repetition(arm) - 1) for arm in arms]
        counts = _scaled([(arm.errors, arm.requests) for arm in arms], effects)
        log_e = float(log_e_value(*counts, ERROR_TOLERANCE, RARE_EFFECTS))
    figures = [_share(arm.errors, arm.requests, "requests", 2) for arm in arms]
    return _row("errors", figures, f"+{ERROR_TOLERANCE:.2%}", log_e, alpha)


def _histograms(
    candidate: VersionFigures, incumbent: VersionFigures, alpha: float
) -> Iterator[Row]:
    arms = candidate, incumbent
    for name, test in HISTOGRAM_TESTS.items():
        counts = [counts_by_bin(getattr(arm, test.figures)) for arm in arms]
        log_e = 0.0
        if all(count.any() for count in counts):
            effects = [1 + test.correlation * (_repetition(arm) - 1) for arm in arms]
            first, second = (count / effect for count, effect in zip(counts, effects, strict=True))
            if test.share is None:
                log_e = float(log_e_distribution(first, second, test.shift))
            else:
                log_e = float(log_e_quantile(first, second, test.share, test.shift))
        figures = [_quantiles(count, test) for count in counts]
        # A difference below a bin is not seen by quantiles, which are compared by bin.
        bins = test.shift + (test.share is not None)
        yield _row(name, figures, f"× {RATIO**bins:.2f}", log_e, alpha)


def _rates(candidate: VersionFigures, incumbent: VersionFigures, alpha: float) -> Iterator[Row]:
    for name, tolerance in RATE_TOLERANCES.items():
        arms = [arm.rates.get(name, RateSums()) for arm in (candidate, incumbent)]
        log_e = 0.0
        if all(arm.trials for arm in arms):
            pooled = sum(arm.events for arm in arms) / sum(arm.trials for arm in arms)
            effects = [_design_effect(arm, pooled) for arm in arms]
            counts = _scaled([(arm.events, arm.trials) for arm in arms], effects)
            log_e = float(log_e_value(*counts, tolerance))
        yield _row(name, _cases(arms), f"+{tolerance:.0%}", log_e, alpha)
    copied = [arm.rates.get(SHOWN_ONLY, RateSums()) for arm in (candidate, incumbent)]
    figures = _cases(copied)
    yield Row(SHOWN_ONLY, figures[0], figures[1], "shown only", 1.0, Verdict.WAIT)


def _scaled(
    counts: Sequence[tuple[int, int]], effects: Sequence[float]
) -> tuple[float, float, float, float]:
    """Divide events and trials of both arms by the design effect of the arm."""
    (x1, n1), (x2, n2) = counts
    return x1 / effects[0], n1 / effects[0], x2 / effects[1], n2 / effects[1]


def _design_effect(sums: RateSums, pooled: float) -> float:
    """Return the variance of the events over that of independent trials with the pooled rate.

    The rate is that of both arms, since a few users who give most trials of an arm also determine
    its own rate, and would seem to vary little around it.
    """
    least = 1 + RATE_CORRELATION * (_repeats(sums) - 1)
    variance = pooled * (1 - pooled) * sums.trials
    if not variance:
        return least
    squares = (
        sums.events_squared
        - 2 * pooled * sums.events_times_trials
        + pooled * pooled * sums.trials_squared
    )
    return max(least, squares / variance)


def _repetition(figures: VersionFigures) -> float:
    """Return the mean requests of the user of a request, from the sums over finished answers."""
    sums = figures.rates.get("refused", RateSums())
    return _repeats(sums) if sums.trials else ASSUMED_REPETITION


def _repeats(sums: RateSums) -> float:
    return sums.trials_squared / sums.trials if sums.trials else 1.0


def _row(name: str, figures: Sequence[str], limit: str, log_e: float, alpha: float) -> Row:
    e_worse = _e(log_e)
    is_harmful = e_worse >= 1 / (alpha * ALPHA_SHARES[name])
    verdict = Verdict.ROLL_BACK if is_harmful else Verdict.WAIT
    return Row(name, figures[0], figures[1], limit, e_worse, verdict)


def _e(log_e: float) -> float:
    return math.exp(min(log_e, LOG_E_CAP))


def _quantiles(counts: Array, test: HistogramTest) -> str:
    if not counts.any():
        return "none"
    shares = (0.5, 0.95) if test.share is None else (test.share,)
    return ", ".join(
        f"{quantile(counts, share):,.0f} {test.unit} (p{100 * share:.0f})" for share in shares
    )


def _share(events: float, trials: float, noun: str, digits: int = 0) -> str:
    return f"{events / trials:.{digits}%} of {trials:,} {noun}" if trials else "none"


def _cases(arms: Sequence[RateSums]) -> list[str]:
    return [_share(arm.events, arm.trials, f"cases of {arm.users:,} users", 1) for arm in arms]


def _approval(approval: Approval) -> str:
    if not approval.users:
        return "none"
    return f"{approval.share:.0%} thumbs up by {approval.users:,.10g} users"


def _approvals(candidate: VersionFigures, incumbent: VersionFigures) -> str:
    arms = candidate.approval, incumbent.approval
    text = " against ".join(_approval(arm) for arm in arms)
    if min(arm.users for arm in arms) < ADVISED_USERS:
        text += f"; decided by fewer than {ADVISED_USERS} users of a version"
    return text
