"""Campaigns: groups of which more accounts tip for or against a subject than fans explain.

A tipping account votes for the subject in its battles, and like all others elsewhere. A few votes
do not distinguish one from an honest account, but many of them together are visible: the votes of a
group are a mixture of honest and tipping accounts, whose shares the likelihood gives. The evidence
is an e-value against the mixture with the allowance for fans (a mean of likelihood ratios has mean
1 if the hypothesis holds; Wang and Ramdas 2022, arXiv 2009.02824), and votes as fans are as
one-sided as tipped ones, which is the worst case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from human_evaluation.detection_config import DetectionConfig
from human_evaluation.votes import (
    NONE,
    Array,
    Index,
    Sides,
    Votes,
    assigned_shares,
    selection_log_ratio,
)

Mask = npt.NDArray[np.bool_]

# Shares of tipping accounts beyond the allowance, for a mixture; any are valid.
PARTS = np.geomspace(1e-3, 0.95, 40)
MOST = 0.99  # largest estimate of the share of tipping accounts
LARGEST_LOG = 500.0  # exp() of larger values overflows
BISECTIONS = 30


@dataclass(frozen=True)
class Campaign:
    """Group of which more accounts tip for or against a subject than fans explain.

    Attributes:
        group: kind and label of the group, for example "burst 2"; empty for all accounts.
        selects: True if nearly all votes of the tipping accounts are on the subject.
        share: estimated share of tipping accounts of the group, fans included.
        fans: allowance for fans.
        log_e: logarithm of the evidence against "not more than the allowance".
        tipping: probability that an account tips or is a fan, 0 outside the group, [A].
    """

    group: str
    subject: int
    favours: bool
    selects: bool
    share: float
    fans: float
    log_e: float
    tipping: Array

    @property
    def hostile(self) -> Array:
        """Probability that an account tips and is no fan, [A]."""
        return self.tipping * (1 - self.fans / self.share)


@dataclass(frozen=True)
class _Question:
    """Direction of tipping, and the evidence of each account for it.

    Attributes:
        logs: log-likelihood ratios of a tipping account to an honest one, [S, A].
        fans: allowance for fans of each subject, [S].
    """

    favours: bool
    selects: bool
    logs: Array
    fans: Array


def find_campaigns(
    sides: Sides,
    accounts: int,
    groups: Mapping[str, Index],
    known: Mask,
    config: DetectionConfig,
) -> list[Campaign]:
    """Return the campaigns in each group, then those in all accounts.

    Accounts of a narrow campaign do not count again in a wider one: groups come before all
    accounts, and accounts that hardly vote on other subjects before those that do.

    Args:
        groups: by kind, the labels of accounts, for example from `account_groups.bursts`; -1 for
            accounts without a group, [A] each.
        known: accounts found by other searches, which are left out, [A].
    """
    if not len(sides.subject):
        return []
    subjects = int(sides.subject.max()) + 1
    tested: list[tuple[str, Mask]] = []
    for kind, group in groups.items():
        labels, sizes = np.unique(group[group != NONE], return_counts=True)
        tested += [(f"{kind} {n}", group == n) for n in labels[sizes >= config.least_members]]
    tested.append(("", np.ones(accounts, dtype=bool)))
    cell = sides.subject * accounts + sides.account
    counts = np.bincount(cell, minlength=subjects * accounts).reshape(subjects, accounts)
    questions = _questions(sides, cell, counts, ~known, config)
    limit = math.log(len(tested) * len(questions) * subjects / config.false_campaigns)
    left, found = ~known, []
    for label, members in tested:
        for question in questions:
            for subject in range(subjects):
                active = members & left & (counts[subject] > 0)
                if np.count_nonzero(active) < config.least_members:
                    continue
                log, fans = question.logs[subject], float(question.fans[subject])
                log_e, share = _excess(log[active], fans)
                if log_e < limit:
                    continue
                tips = math.log(share) + log
                tipping = np.exp(tips - np.logaddexp(math.log1p(-share), tips))
                tipping *= members & left
                campaign = Campaign(
                    label, subject, question.favours, question.selects, share, fans, log_e, tipping
                )
                found.append(campaign)
                left = left & (campaign.hostile < config.certainty)
    return found


def _questions(
    sides: Sides, cell: Index, counts: Index, left: Mask, config: DetectionConfig
) -> list[_Question]:
    """Return the questions, those with selection first. Thumbs have none with selection: users
    choose what they ask.
    """
    assigned = assigned_shares(sides)
    selecting = np.full(assigned.shape, config.tip)
    selection = selection_log_ratio(sides, counts.shape[1], assigned, selecting)
    questions = []
    for selects in (False,) if sides.is_first.all() else (True, False):
        for favours in (True, False):
            score, expected = in_favour(sides, favours)
            ratio = log_ratio(score, expected, np.full(len(expected), config.tip))
            logs: Array = np.bincount(cell, ratio, counts.size).astype(float)
            logs = logs.reshape(counts.shape)
            if selects:
                logs = logs + selection
            least = config.selecting_fans if selects else config.fans
            shares = np.array(
                [_share(log[left & (n > 0)]) for log, n in zip(logs, counts, strict=True)]
            )
            # As many fans as the subject with most of them among all other subjects.
            others = [np.delete(shares, n).max(initial=least) for n in range(len(shares))]
            questions.append(_Question(favours, selects, logs, np.array(others)))
    return questions


def _share(log: Array) -> float:
    """Return the share of tipping accounts with the largest likelihood, at most MOST."""
    less = np.expm1(np.minimum(log, LARGEST_LOG))
    low, high = 0.0, MOST
    # The likelihood is concave in the share.
    for _ in range(BISECTIONS):
        share = (low + high) / 2
        if (less / (1 + share * less)).sum() > 0:
            low = share
        else:
            high = share
    return (low + high) / 2


def _mixture(log: Array, part: float) -> float:
    """Return the log-likelihood of a share of tipping accounts against none."""
    return float(np.logaddexp(math.log1p(-part), math.log(part) + log).sum())


def _excess(log: Array, fans: float) -> tuple[float, float]:
    """Return the log-evidence against "not more tipping accounts than fans", and their share."""
    share = _share(log)
    if share <= fans:
        return 0.0, share
    # Under the allowance a part of the accounts votes like tipping ones.
    ratio = log - np.logaddexp(math.log1p(-fans), math.log(fans) + log)
    likelihoods = np.array([_mixture(ratio, part) for part in PARTS])
    return float(log_mean(likelihoods[:, None])[0]), share


def untipped(votes: Votes, accounts: int, found: list[Campaign]) -> Array:
    """Return the probability that a vote is not tipped, as a factor of its weight, [N].

    A fit with these weights and a search with its ratings, in turn, are the EM algorithm for the
    mixture: its ratings are those of the honest votes, even if few accounts are certain.
    """
    honest = np.ones(len(votes))
    for campaign in found:
        on_subject = (votes.first == campaign.subject) | (votes.second == campaign.subject)
        tipped = np.where(on_subject, campaign.tipping[votes.account], 0.0)
        honest = np.minimum(honest, 1 - tipped)
    return honest


def in_favour(sides: Sides, favours: bool) -> tuple[Array, Array]:
    """Return score and expected score in the view of a friend, or of an enemy of the subject."""
    return (sides.score, sides.expected) if favours else (1 - sides.score, 1 - sides.expected)


def log_ratio(score: Array, null: Array, other: Array) -> Array:
    """Return the log-likelihood ratio of scores; 0 where the other share is not larger."""
    other = np.maximum(other, null)
    ratio: Array = score * np.log(other / null) + (1 - score) * np.log((1 - other) / (1 - null))
    return ratio


def log_mean(logs: Array) -> Array:
    """Return log(mean(exp)) over the first axis."""
    peak = logs.max(axis=0)
    mean: Array = peak + np.log(np.exp(logs - peak).mean(axis=0))
    return mean
