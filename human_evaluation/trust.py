"""Weights of votes by the trust in their accounts.

The weight of a vote is the product of five factors from 0 to 1, limited by caps of influence:

- age of the account, and number of its votes: a new account has little weight until trusted, since
  accounts cost nothing to create (Huang et al. 2025, arXiv 2501.07493, on the cost of an attack);
- agreement of the account with all others, as the reliability of a rater in Chen et al. 2013
  (Crowd-BT, WSDM), from ratings without the account's own votes;
- rate: votes above a daily limit share the weight of the limit;
- decision of a reviewer: votes of quarantined accounts have no weight.

The same functions weigh votes of the arena, thumbs and corrections; agreement needs expected
scores, which corrections do not have. Figures and limits: docs/decisions/vote-integrity.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from human_evaluation.votes import NONE, Accounts, Array, Index, Votes, share_of

DAY_SECONDS = 86_400.0
# A cap cannot be below the equal share of all accounts. Twice the equal share still leaves room for
# accounts that vote more, as in the caps of training sets.
LEAST_SHARES = 2.0
CAP_PASSES = 8


@dataclass(frozen=True)
class TrustConfig:
    """Settings of the rules.

    Attributes:
        age_days: age at which an account has its full weight; the weight rises linearly from 0.
        full_votes: number of votes with which an account has its full weight.
        first_vote: weight of an account with a single vote.
        votes_per_day: votes of an account a day with full weight; 50 is the limit of a public
            arena.
        agreement_spread: standard deviation of the agreement among honest accounts; accounts with
            few votes stay close to 1.
        account_share: largest share of the total weight of an account.
        cluster_share: largest share of the total weight of a cluster of accounts.
    """

    age_days: float = 7.0
    full_votes: int = 10
    first_vote: float = 0.25
    votes_per_day: int = 50
    agreement_spread: float = 0.5
    account_share: float = 0.005
    cluster_share: float = 0.02

    def __post_init__(self) -> None:
        limits = {
            "age_days": (0.0, 365.0),
            "full_votes": (1, 10_000),
            "first_vote": (0.0, 1.0),
            "votes_per_day": (1, 100_000),
            "agreement_spread": (0.01, 100.0),
            "account_share": (1e-6, 1.0),
            "cluster_share": (1e-6, 1.0),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name}: {value} is not from {least:g} to {most:g}")


def weigh(
    votes: Votes,
    accounts: Accounts,
    now: float,
    config: TrustConfig,
    *,
    agreement: Array | None = None,
    quarantined: npt.NDArray[np.bool_] | None = None,
) -> Array:
    """Return the weights of votes, [N].

    Args:
        now: time of the evaluation in seconds. The age counts until then, so votes of a new account
            gain weight while the account exists and is not found by the detection.
        agreement: weights of accounts by `agreement_trust`, [A]; None leaves the rule out.
        quarantined: accounts whose votes have no weight until a decision, [A].
    """
    trust = age_trust(accounts.created, now, config)
    trust = trust * count_trust(np.bincount(votes.account, minlength=len(accounts)), config)
    if agreement is not None:
        trust = trust * agreement
    if quarantined is not None:
        trust = np.where(quarantined, 0.0, trust)
    weight = trust[votes.account] * rate_weights(votes.account, votes.time, config)
    cluster = accounts.cluster[votes.account]
    # Each cap lowers the sum, which the other one refers to; the passes converge from above.
    for _ in range(CAP_PASSES):
        weight = cap_shares(weight, cluster, config.cluster_share)
        weight = cap_shares(weight, votes.account, config.account_share)
    return weight


def age_trust(created: Array, now: float, config: TrustConfig) -> Array:
    """Return weights by age, [A]; 1 for all accounts if `age_days` is 0."""
    if not config.age_days:
        return np.ones(len(created))
    days = (now - created) / DAY_SECONDS
    trust: Array = np.clip(days / config.age_days, 0.0, 1.0)
    return trust


def count_trust(votes: npt.NDArray[np.int64], config: TrustConfig) -> Array:
    """Return weights by the number of votes, [A], rising linearly to `full_votes`."""
    steps = max(config.full_votes - 1, 1)
    part = np.clip((votes - 1) / steps, 0.0, 1.0) if config.full_votes > 1 else np.ones(len(votes))
    weights: Array = config.first_vote + (1 - config.first_vote) * part
    return weights


def rate_weights(account: Index, time: Array, config: TrustConfig) -> Array:
    """Return weights by rate, [N]: n votes of a day have a sum of at most `votes_per_day`."""
    day = np.floor(time / DAY_SECONDS)
    _, day = np.unique(day, return_inverse=True)
    _, group = np.unique(account * (day.max(initial=0) + 1) + day, return_inverse=True)
    given = np.bincount(group)[group]
    weights: Array = np.minimum(1.0, config.votes_per_day / given)
    return weights


def agreement_trust(votes: Votes, accounts: int, odds: Array, config: TrustConfig) -> Array:
    """Return weights by agreement, [A].

    The agreement of an account is the factor b with which its votes follow the ratings: the odds
    of its score are exp(b x). It is 1 for votes like those of all others, 0 for random votes and
    below 0 for votes against the ratings. This is one Newton step from b = 1, shrunk towards 1 by a
    normal prior, so few votes decide little.

    Args:
        accounts: number of accounts.
        odds: log-odds x of the first subject from ratings without the votes of the account, see
            `odds_without_own`, [N].
    """
    expected = share_of(odds)
    score = np.bincount(votes.account, (votes.score - expected) * odds, accounts)
    information = np.bincount(votes.account, expected * (1 - expected) * odds**2, accounts)
    agreement = 1 + score / (information + 1 / config.agreement_spread**2)
    trust: Array = np.clip(agreement, 0.0, 1.0)
    return trust


def odds_without_own(votes: Votes, accounts: int, ratings: Array, weight: Array) -> Array:
    """Return the log-odds of the first subject, from ratings without the votes of the account, [N].

    The ratings without an account are approximated by one Newton step (infinitesimal jackknife),
    which is close because of the caps of influence.

    Args:
        accounts: number of accounts.
        ratings: ratings of the subjects in log-odds (natural logarithm), [S].
        weight: weights of the votes in the fit of the ratings, [N].
    """
    odds: Array = ratings[votes.first] - ratings[votes.second]
    expected = share_of(odds)
    information = weight * expected * (1 - expected)
    subjects = len(ratings)
    wins = _table(votes.first, votes.second, information, subjects, subjects)
    between = wins + wins.T
    hessian = np.diag(between.sum(axis=1)) - between
    # Only differences of ratings are determined, hence the pseudo-inverse.
    inverse = np.linalg.pinv(hessian, hermitian=True)
    residual = weight * (votes.score - expected)
    gradient = _table(votes.account, votes.first, residual, accounts, subjects)
    gradient -= _table(votes.account, votes.second, residual, accounts, subjects)
    shift = gradient @ inverse
    own: Array = shift[votes.account, votes.first] - shift[votes.account, votes.second]
    return odds - own


def cap_shares(weight: Array, group: Index, share: float) -> Array:
    """Return weights in which no group has more than a share of their sum, [N].

    With few groups the share is twice the equal share. Members keep their proportions.

    Args:
        group: label of the group of each vote; -1 for none, which is never capped, [N].
    """
    is_grouped = group != NONE
    label = group[is_grouped]
    if label.max(initial=0) > 2 * len(group) or label.min(initial=0) < 0:
        _, label = np.unique(label, return_inverse=True)
    totals: Array = np.bincount(label, weight[is_grouped]).astype(float)
    free = float(weight[~is_grouped].sum())
    if not totals.size or not weight.sum():
        return weight
    # Votes outside all groups belong to different accounts, which are no group to be equal with.
    least = LEAST_SHARES / np.count_nonzero(totals) if not free else 0.0
    largest = _cap(totals, free, min(1.0, max(share, least)))
    factors = np.ones(len(totals))
    np.divide(largest, totals, out=factors, where=totals > largest)
    capped = weight.copy()
    capped[is_grouped] *= factors[label]
    return capped


def _cap(totals: Array, free: float, share: float) -> float:
    """Return the largest c with c = share (free + sum of min(total, c)), or the largest total."""
    ordered = np.append(np.sort(totals)[::-1], 0.0)
    rest = free + ordered.sum() - np.cumsum(ordered) + ordered
    for capped in range(len(ordered)):
        # With this many totals at c, their sum is c * capped + rest, of which c is the share.
        left = 1 - share * capped
        cap = share * rest[capped] / left if left > 0 else math.inf
        if ordered[capped] <= cap:
            return float(min(cap, ordered[0]))
    raise AssertionError("the last total is 0")


def _table(row: Index, column: Index, value: Array, rows: int, columns: int) -> Array:
    """Return the sums of values by row and column, [rows, columns]."""
    sums: Array = np.bincount(row * columns + column, value, rows * columns).astype(float)
    return sums.reshape(rows, columns)
