"""Columns of votes and accounts, for the defence against poisoning.

A vote of an arena compares two subjects, a thumb rates a single subject, and a correction has an
author only. Legend: N votes, A accounts, S subjects (model versions).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

NONE = -1
# Subjects come and go, so the share of a subject among the battles is that of a period. Periods are
# long, because the accounts that select battles are part of them and hide in a short one.
PERIODS = 20
PERIOD_VOTES = 2_000  # at least


@dataclass(frozen=True)
class Accounts:
    """Accounts that vote.

    Attributes:
        created: time of creation in seconds, [A].
        cluster: label of accounts that belong together by a fact outside the votes, such as a
            tenant or a network; -1 for none, [A].
    """

    created: Array
    cluster: Index

    def __post_init__(self) -> None:
        _require_length("cluster", self.cluster, len(self.created))
        _require(bool(np.isfinite(self.created).all()), "created", "finite")

    def __len__(self) -> int:
        return len(self.created)


@dataclass(frozen=True)
class Votes:
    """Votes of accounts on subjects.

    Attributes:
        account: index of the account, [N].
        first: index of the subject, [N].
        second: index of the subject on the other side; -1 for a thumb or a correction, [N].
        score: 1 for the first subject or a thumb up, 0 for the opposite, 0.5 for a tie, [N].
        time: of the vote in seconds, [N].
        item: label of what was voted on, for example a hash of the question; -1 if unknown, [N].
    """

    account: Index
    first: Index
    second: Index
    score: Array
    time: Array
    item: Index

    def __post_init__(self) -> None:
        for name in ("first", "second", "score", "time", "item"):
            _require_length(name, getattr(self, name), len(self.account))
        _require(bool((self.account >= 0).all()), "account", "at least 0")
        _require(bool((self.first >= 0).all()), "first", "at least 0")
        _require(bool((self.second >= NONE).all()), "second", "at least -1")
        _require(bool((self.first != self.second).all()), "second", "another subject than first")
        _require(bool(((self.score >= 0) & (self.score <= 1)).all()), "score", "from 0 to 1")
        _require(bool(np.isfinite(self.time).all()), "time", "finite")

    def __len__(self) -> int:
        return len(self.account)

    @property
    def subjects(self) -> int:
        """Number of subjects, from the highest index."""
        return int(max(self.first.max(), self.second.max())) + 1 if len(self) else 0


@dataclass(frozen=True)
class Sides:
    """Votes once for each of their subjects, in the view of that subject.

    Attributes:
        vote: index of the vote, [sides].
        account: index of the account, [sides].
        subject: index of the subject, [sides].
        score: 1 for the subject, 0 against it, [sides].
        expected: expected score of an honest account, [sides].
        is_first: False for the second side of a vote, [sides].
        period: number of the period of the vote; periods have equally many votes, [sides].
    """

    vote: Index
    account: Index
    subject: Index
    score: Array
    expected: Array
    is_first: npt.NDArray[np.bool_]
    period: Index


def sides_of(votes: Votes, expected: Array) -> Sides:
    """Return each vote in the view of its first and, if there is one, of its second subject.

    Args:
        expected: expected score of the first subject, between 0 and 1, [N].
    """
    _require_length("expected", expected, len(votes))
    _require(bool(((expected > 0) & (expected < 1)).all()), "expected", "between 0 and 1")
    pairs = np.flatnonzero(votes.second != NONE)
    every = np.arange(len(votes))
    rank = np.empty(len(votes), dtype=np.int64)
    rank[np.argsort(votes.time, kind="stable")] = every
    period = rank // max(PERIOD_VOTES, -(-len(votes) // PERIODS))
    return Sides(
        vote=np.concatenate([every, pairs]),
        account=np.concatenate([votes.account, votes.account[pairs]]),
        subject=np.concatenate([votes.first, votes.second[pairs]]),
        score=np.concatenate([votes.score, 1 - votes.score[pairs]]),
        expected=np.concatenate([expected, 1 - expected[pairs]]),
        is_first=np.arange(len(votes) + len(pairs)) < len(votes),
        period=np.concatenate([period, period[pairs]]),
    )


def assigned_shares(sides: Sides) -> Array:
    """Return the share of each subject among the battles of each period, [periods, S]."""
    periods, subjects = int(sides.period.max()) + 1, int(sides.subject.max()) + 1
    on = np.bincount(sides.period * subjects + sides.subject, minlength=periods * subjects)
    votes = np.bincount(sides.period[sides.is_first], minlength=periods)
    shares: Array = on.reshape(periods, subjects) / np.maximum(votes, 1)[:, None]
    return shares


def selection_log_ratio(sides: Sides, accounts: int, null: Array, other: Array) -> Array:
    """Return the log-likelihood ratios of the accounts' numbers of battles of each subject, [S, A].

    Args:
        null: share of a subject among the battles under the hypothesis, [periods, S].
        other: the same under the alternative; a share that is not larger gives no evidence.
    """
    periods, subjects = null.shape
    is_larger = (other > null) & (null > 0) & (other < 1)
    on, off = np.zeros(null.shape), np.zeros(null.shape)
    on[is_larger] = np.log(other[is_larger] / null[is_larger])
    off[is_larger] = np.log((1 - other[is_larger]) / (1 - null[is_larger]))
    first = sides.is_first
    cell = sides.account[first] * periods + sides.period[first]
    given = np.bincount(cell, minlength=accounts * periods).reshape(accounts, periods)
    gain = (on - off)[sides.period, sides.subject]
    sums: Array = np.bincount(
        sides.subject * accounts + sides.account, gain, subjects * accounts
    ).astype(float)
    ratios: Array = sums.reshape(subjects, accounts) + (given @ off).T
    return ratios


def log_odds(share: Array) -> Array:
    """Return the log-odds of shares between 0 and 1."""
    odds: Array = np.log(share) - np.log1p(-share)
    return odds


def share_of(odds: Array) -> Array:
    """Return the shares of log-odds."""
    share: Array = 0.5 * (1 + np.tanh(odds / 2))
    return share


def _require_length(field: str, column: npt.NDArray[np.generic], length: int) -> None:
    if column.shape != (length,):
        raise ValueError(f"{field}: shape {column.shape} is not ({length},)")


def _require(condition: bool, field: str, limit: str) -> None:
    if not condition:
        raise ValueError(f"{field}: a value is not {limit}")
