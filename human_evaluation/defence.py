"""Ratings from votes that may be poisoned: trust, detection and fit in turn.

The fit is an argument, so the same procedure serves ratings of any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from human_evaluation import account_groups, campaigns, detection, trust
from human_evaluation.campaigns import Campaign
from human_evaluation.detection import Finding
from human_evaluation.detection_config import DetectionConfig
from human_evaluation.trust import TrustConfig
from human_evaluation.votes import NONE, Accounts, Array, Index, Votes, share_of, sides_of

# The first rounds move the ratings most; later ones refine the probabilities of a campaign.
ROUNDS = 12
CONVERGED = 1e-3  # log-odds, a tenth of the error of 100,000 votes


@dataclass(frozen=True)
class Defence:
    """Weights of votes, and the reasons.

    Attributes:
        weight: weights of the votes for the fit, [N].
        ratings: ratings of the subjects with these weights, in log-odds, [S].
        findings: reasons for a quarantine, the strongest evidence of an account first.
        campaigns: groups with more tipping accounts than fans explain.
        trust: weights of accounts by agreement, [A].
    """

    weight: Array
    ratings: Array
    findings: tuple[Finding, ...]
    campaigns: tuple[Campaign, ...]
    trust: Array

    def quarantined(self, accounts: int) -> npt.NDArray[np.bool_]:
        """Return the accounts with a finding, [A]."""
        found = np.zeros(accounts, dtype=bool)
        found[[finding.account for finding in self.findings]] = True
        return found


def defend(
    votes: Votes,
    accounts: Accounts,
    now: float,
    fit: Callable[[Array], Array],
    trust_config: TrustConfig,
    config: DetectionConfig,
    released: npt.NDArray[np.bool_] | None = None,
) -> Defence:
    """Return weights and findings for battles of two subjects, or for thumbs.

    Args:
        now: time of the evaluation in seconds.
        fit: ratings of the subjects in log-odds, [S], from weights of the votes, [N]. For thumbs
            the log-odds of approval.
        released: accounts that a reviewer found honest; they are never quarantined again, [A].
    """
    size = len(accounts)
    is_released = np.zeros(size, dtype=bool) if released is None else released
    groups = {
        "burst": account_groups.bursts(accounts.created, config),
        "items": account_groups.simultaneous(votes, size, config),
        "cluster": accounts.cluster,
    }
    weight = trust.weigh(votes, accounts, now, trust_config)
    ratings = fit(weight)
    result = Defence(weight, ratings, (), (), np.ones(size))
    for _ in range(ROUNDS):
        result = _round(
            votes, accounts, now, fit, result, groups, is_released, trust_config, config
        )
        moved = np.abs(result.ratings - ratings).max()
        ratings = result.ratings
        if moved < CONVERGED:
            break
    return result


def _round(
    votes: Votes,
    accounts: Accounts,
    now: float,
    fit: Callable[[Array], Array],
    before: Defence,
    groups: Mapping[str, Index],
    released: npt.NDArray[np.bool_],
    trust_config: TrustConfig,
    config: DetectionConfig,
) -> Defence:
    size = len(accounts)
    if (votes.second == NONE).any():
        # Users differ in their thumbs on equal answers, so agreement would only weigh tastes.
        odds, agreement = before.ratings[votes.first], np.ones(size)
    else:
        odds = trust.odds_without_own(votes, size, before.ratings, before.weight)
        agreement = trust.agreement_trust(votes, size, odds, trust_config)
    sides = sides_of(votes, share_of(odds))
    single = detection.one_sided(votes, sides, size, config)
    known = released.copy()
    known[[finding.account for finding in single]] = True
    found = campaigns.find_campaigns(sides, size, groups, known, config)
    findings = [*single, *detection.campaign_findings(votes, sides, size, found, config)]
    findings = [finding for finding in findings if not released[finding.account]]
    quarantined = np.zeros(size, dtype=bool)
    quarantined[[finding.account for finding in findings]] = True
    weight = trust.weigh(
        votes, accounts, now, trust_config, agreement=agreement, quarantined=quarantined
    )
    weight = weight * campaigns.untipped(votes, size, found)
    return Defence(weight, fit(weight), tuple(findings), tuple(found), agreement)
