"""Decision of the canary by sequential tests; valid at any time.

`sequential.rows` contains the tests. Power and limits: docs/decisions/gate-and-canary.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from sequential.figures import Approval, VersionFigures
from sequential.rows import Row, RowsConfig, Verdict, judge
from training.errors import ConfigError
from training.runtime.ranges import Count, Limit, Range, check_fields

__all__ = ["CanaryConfig", "Reading", "Verdict", "evaluate"]

Share = Annotated[float, Range(high=0.5, above=True)]  # of the users: at most as many as before


@dataclass(frozen=True)
class CanaryConfig:
    """Settings of the canary.

    Attributes:
        share: fraction of users who get the candidate in the end.
        alpha: bound on the probability of each error over the whole canary: a rollback without
            harm, by any row, and a promotion without improvement.
        margin: promote a candidate whose approval is not more than this below the incumbent's; 0
            requires a better candidate.
        min_users: users per version before any decision by thumbs; the chart sets
            `ADVISED_USERS`.
        max_seconds: time after which an undecided canary is rolled back.
        steps: shares before `share`; those that are not below `share` are left out.
        step_requests: requests of the candidate after which the next step begins.
        step_seconds: time after which the next step begins with fewer requests, at most a tenth of
            max_seconds.
    """

    share: Share = 0.2
    alpha: Annotated[float, Range(high=0.5, above=True, below=True)] = 0.05
    margin: Annotated[float, Range(high=0.5, below=True)] = 0.0
    min_users: Count = 1
    max_seconds: float = 7 * 24 * 3600
    poll_seconds: float = 15.0
    lease_seconds: Annotated[float, Range(10, 86_400)] = 900.0
    steps: tuple[Share, ...] = (0.02, 0.05, 0.2)
    step_requests: Count = 200
    step_seconds: Limit = 1800.0

    def __post_init__(self) -> None:
        check_fields(self)
        _require(
            0 < self.poll_seconds <= self.lease_seconds / 3,
            "poll_seconds",
            self.poll_seconds,
            "above 0 and up to a third of lease_seconds",
        )
        for before, step in pairwise(self.steps):
            _require(before < step, "steps", step, f"above the step before, {before:g}")

    def share_after(self, requests: int, seconds: float) -> float:
        """Return the share after requests of the candidate and a time without harm."""
        shares = (*(step for step in self.steps if step < self.share), self.share)
        step_seconds = min(self.step_seconds, self.max_seconds / 10)
        passed = max(requests // self.step_requests, int(seconds // step_seconds))
        return shares[min(passed, len(shares) - 1)]


@dataclass(frozen=True)
class Reading:
    """State of the tests.

    e_better and e_worse are e-values of the thumbs against "not better" and "not worse"; rows are
    those of `sequential.rows`.
    """

    candidate: Approval
    incumbent: Approval
    e_better: float
    e_worse: float
    verdict: Verdict
    reason: str
    rows: tuple[Row, ...] = ()

    def text(self) -> str:
        """Describe the reading in a single line."""
        arms = {"candidate": self.candidate, "incumbent": self.incumbent}
        figures = (f"{arm} {a.share:.0%} up by {a.users:,.10g} users" for arm, a in arms.items())
        return f"{', '.join(figures)}: {self.reason}"


def evaluate(candidate: VersionFigures, incumbent: VersionFigures, config: CanaryConfig) -> Reading:
    """Evaluate the figures of two versions; valid at every poll."""
    rows_config = RowsConfig(config.alpha, config.margin, config.min_users)
    judgement = judge(candidate, incumbent, rows_config)
    return Reading(
        candidate.approval,
        incumbent.approval,
        judgement.thumbs.e_better,
        judgement.thumbs.e_worse,
        judgement.verdict,
        judgement.reason,
        judgement.rows,
    )


def _require(condition: bool, field: str, value: float, limit: str) -> None:
    if not condition:
        raise ConfigError(
            f"{field}: {value} is not {limit}", field=field, reason="OUT_OF_RANGE", limit=limit
        )
