"""Figures of one version in use: what users gave, and what its requests cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

# Bin k of a histogram holds values v (milliseconds or tokens) with RATIO**k <= v < RATIO**(k + 1).
# Values below 1 are in bin 0.
RATIO = 1.05
# Rates whose clusters are users; the names are those of RateSums in feedback.proto.
RATES = ("refused", "retracted", "asked_again", "edited", "stopped", "copied", "left")


@dataclass(frozen=True)
class RateSums:
    """Sums over users of a rate: user u has n trials, of which x were events.

    They suffice for a mean with an error that respects the clusters.

    Attributes:
        trials: sum of n.
        events: sum of x.
        trials_squared: sum of n².
        events_squared: sum of x².
        events_times_trials: sum of x·n.
    """

    users: int = 0
    trials: int = 0
    events: int = 0
    trials_squared: int = 0
    events_squared: int = 0
    events_times_trials: int = 0


@dataclass(frozen=True)
class Approval:
    """Approval of a version: the mean over users of the share of thumbs up among their thumbs.

    Attributes:
        users: sum of the users' weights, the number of users if all weights are 1.
        share: weighted mean.
    """

    users: float = 0
    share: float = 0.0


@dataclass(frozen=True)
class VersionFigures:
    """Figures of a version since the start of a comparison.

    Attributes:
        user_shares: sum of the users' weights by the share of thumbs up among their current thumbs,
            see `shares_of`. A weight, from 0 to 1, is fixed before the first thumb.
        rates: sums by the names of RATES; a missing name has no observations.
        requests: generations that ended, failed ones included, without those that callers aborted.
        errors: generations that failed.
        first_text_ms: histogram of the time to the first text.
        answer_tokens: histogram of the length of answers.
        total_tokens: histogram of prompt and answer tokens, which stand for the cost.
    """

    user_shares: Mapping[float, float] = field(default_factory=dict)
    rates: Mapping[str, RateSums] = field(default_factory=dict)
    requests: int = 0
    errors: int = 0
    first_text_ms: Mapping[int, int] = field(default_factory=dict)
    answer_tokens: Mapping[int, int] = field(default_factory=dict)
    total_tokens: Mapping[int, int] = field(default_factory=dict)

    @property
    def approval(self) -> Approval:
        """Mean of the users' shares; 0 without users."""
        users = round(sum(self.user_shares.values()), 6)
        total = sum(share * number for share, number in self.user_shares.items())
        return Approval(users, total / users if users else 0.0)

    def with_feedback(self, feedback: VersionFigures) -> VersionFigures:
        """Return the figures with the users' shares and the rates of other figures."""
        return replace(self, user_shares=feedback.user_shares, rates=feedback.rates)

    def traffic_since(self, before: VersionFigures) -> VersionFigures:
        """Return the figures with the traffic since an earlier reading of the same counts."""
        return replace(
            self,
            requests=max(0, self.requests - before.requests),
            errors=max(0, self.errors - before.errors),
            first_text_ms=_difference(self.first_text_ms, before.first_text_ms),
            answer_tokens=_difference(self.answer_tokens, before.answer_tokens),
            total_tokens=_difference(self.total_tokens, before.total_tokens),
        )


def shares_of(rows: Iterable[tuple[int, int, int, float]]) -> dict[float, float]:
    """Return the sum of users' weights by share of thumbs up; users without thumbs have none.

    Args:
        rows: thumbs up and thumbs down of a user, the number of such users, and their weight.
    """
    shares: defaultdict[float, float] = defaultdict(float)
    for up, down, users, weight in rows:
        if up + down and weight:
            shares[up / (up + down)] += users * weight
    return dict(shares)


def _difference(bins: Mapping[int, int], before: Mapping[int, int]) -> dict[int, int]:
    # Counts of a restored database may be lower than before.
    return {k: count - before.get(k, 0) for k, count in bins.items() if count > before.get(k, 0)}
