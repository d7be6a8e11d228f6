"""Detection of accounts and groups of accounts that vote for or against a subject by arrangement.

Three searches, each with evidence for a reviewer:

- one-sided accounts: votes of an account for (or against) a subject beyond the allowance for
  fans, or battles of the subject far more often than assigned. The evidence is an e-value, valid
  for any number of votes (Ramdas et al. 2020, arXiv 2009.03167), and e-BH bounds the share of
  false findings among all accounts (Wang and Ramdas 2022, arXiv 2009.02824).
- groups: accounts created in a burst, accounts that vote on the same rare items in the same time
  (Cao et al. 2014, SynchroTrap, CCS), and clusters known to the operator.
- campaigns: a mixture of honest and tipping accounts in a group, or among all accounts. A
  tipping account votes for the subject in its battles, and like all others elsewhere. One such
  account is not distinguishable from an honest one by a few votes, but many of them together are,
  since fans of a single subject are few.

A finding is never a deletion: quarantined votes have no weight until a person decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from human_evaluation.campaigns import Campaign, in_favour, log_mean, log_ratio
from human_evaluation.detection_config import DetectionConfig
from human_evaluation.votes import (
    NONE,
    Array,
    Sides,
    Votes,
    assigned_shares,
    log_odds,
    selection_log_ratio,
    share_of,
)

Mask = npt.NDArray[np.bool_]

# Log-odds by which votes exceed the allowance; a mixture is valid for any, and power depends on it.
SHIFTS = (0.5, 1.0, 2.0, 4.0)
# Parts of the way from the allowed share of a subject's battles to 1, for a mixture of that kind.
SELECTIONS = (0.1, 0.3, 0.6, 0.95)


class Reason(StrEnum):
    """Search that found an account."""

    ONE_SIDED = "one_sided"
    SELECTED = "selected"
    CAMPAIGN = "campaign"


@dataclass(frozen=True)
class Finding:
    """Reason to quarantine an account, with the evidence.

    Attributes:
        subject: index of the favoured subject, or of the opposed one.
        favours: False if the account votes against the subject.
        evidence: e-value of the account's votes, or the probability that the account tips.
        votes: votes of the account on the subject, of `all_votes`.
        score: mean score of the subject in these votes, and `expected`, that of honest accounts.
        group: group of the campaign; empty for all accounts and for single accounts.
    """

    account: int
    reason: Reason
    subject: int
    favours: bool
    evidence: float
    votes: int
    all_votes: int
    score: float
    expected: float
    group: str = ""


def one_sided(votes: Votes, sides: Sides, accounts: int, config: DetectionConfig) -> list[Finding]:
    """Return accounts that favour or oppose a subject beyond the allowance for fans.

    The evidence is the mean over subjects, both directions and both questions: the direction of
    the votes, and the share of the subject's battles among the account's votes. Both are 1 in the
    mean for every honest account, ties included, because a tie has less than the mean evidence of
    a win and a defeat. For thumbs only the direction is used: users choose what they ask.
    """
    subjects = votes.subjects
    cell = sides.account * subjects + sides.subject
    cells = accounts * subjects
    logs = []
    for favours in (True, False):
        score, expected = in_favour(sides, favours)
        border = log_odds(expected) + math.log(config.fan_odds)
        ratios = [
            np.bincount(cell, log_ratio(score, share_of(border), share_of(border + shift)), cells)
            for shift in SHIFTS
        ]
        logs.append(log_mean(np.stack(ratios)))
    given = np.bincount(votes.account, minlength=accounts)
    is_pair = bool((votes.second != NONE).any())
    selection = _selection(sides, accounts, config).ravel()
    # Selection strengthens a direction; both are valid, and so is their product.
    both = [log + selection for log in logs] if is_pair else []
    table = np.stack([*logs, *both]).reshape(-1, accounts, subjects)
    by_account = log_mean(np.moveaxis(table, 1, 2).reshape(-1, accounts))
    found = np.flatnonzero(e_bh(by_account, config.false_findings))
    best = table.max(axis=0)
    strongest = table.argmax(axis=0)
    findings = []
    for account in found:
        subject = int(best[account].argmax())
        kind = int(strongest[account, subject])
        reason = Reason.SELECTED if kind >= len(logs) else Reason.ONE_SIDED
        e_value = math.exp(min(by_account[account], 700.0))
        findings.append(
            _finding(sides, given, int(account), reason, subject, kind % 2 == 0, e_value)
        )
    return findings


def e_bh(log_e: Array, share: float) -> Mask:
    """Return the rejected hypotheses of e-BH: expected share of false ones at most `share`."""
    order = np.argsort(-log_e)
    needed = math.log(len(log_e) / share) - np.log(np.arange(1, len(log_e) + 1))
    reached = np.flatnonzero(log_e[order] >= needed)
    rejected = np.zeros(len(log_e), dtype=bool)
    if reached.size:
        rejected[order[: reached[-1] + 1]] = True
    return rejected


def campaign_findings(
    votes: Votes, sides: Sides, accounts: int, found: list[Campaign], config: DetectionConfig
) -> list[Finding]:
    """Return the accounts of campaigns that tip with a probability of at least `certainty`."""
    given = np.bincount(votes.account, minlength=accounts)
    return [
        _finding(
            sides,
            given,
            int(account),
            Reason.CAMPAIGN,
            campaign.subject,
            campaign.favours,
            float(campaign.hostile[account]),
            campaign.group,
        )
        for campaign in found
        for account in np.flatnonzero(campaign.hostile >= config.certainty)
    ]


def _selection(sides: Sides, accounts: int, config: DetectionConfig) -> Array:
    """Return the log-evidence that an account has too many battles of a subject, [A, S]."""
    border = np.minimum(assigned_shares(sides) * config.fan_selection, 1.0)
    logs = [
        selection_log_ratio(sides, accounts, border, border + part * (1 - border))
        for part in SELECTIONS
    ]
    return log_mean(np.stack(logs)).T


def _finding(
    sides: Sides,
    given: npt.NDArray[np.int64],
    account: int,
    reason: Reason,
    subject: int,
    favours: bool,
    evidence: float,
    group: str = "",
) -> Finding:
    on_subject = (sides.account == account) & (sides.subject == subject)
    return Finding(
        account=account,
        reason=reason,
        subject=subject,
        favours=favours,
        evidence=evidence,
        votes=int(on_subject.sum()),
        all_votes=int(given[account]),
        score=float(sides.score[on_subject].mean()) if on_subject.any() else 0.0,
        expected=float(sides.expected[on_subject].mean()) if on_subject.any() else 0.0,
        group=group,
    )
