"""Search for accounts that vote by arrangement, and the trust in all others.

Accounts found are quarantined until a person decides: their votes do not count, and their events
are not sent. Method and figures: docs/decisions/vote-integrity.md.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from prometheus_client import Counter

from human_evaluation.bradley_terry import ELO_SCALE, fit
from human_evaluation.defence import Defence, defend
from human_evaluation.detection import Reason
from human_evaluation.detection_config import DetectionConfig
from services.chassis.telemetry import fields
from services.chassis.threads import BoundedThreads
from services.contracts.wire import now_us
from services.review.arena.leaderboard import Fingerprint, VoteSource
from services.review.arena.vote_columns import Array, VoteColumns

log = logging.getLogger(__name__)

# With fewer votes neither ratings nor the habits of an account are known.
LEAST_VOTES = 200
LEAST_ACCOUNTS = 10

QUARANTINED = Counter(
    "thumbwheel_review_accounts_quarantined_total",
    "Accounts quarantined by the search for arranged votes, by reason.",
    ["reason"],
)
# From the start, so that an increase includes the first account.
for _reason in Reason:
    QUARANTINED.labels(_reason)


@dataclass(frozen=True)
class Suspicion:
    """Account to quarantine, with the evidence for a reviewer; figures only."""

    principal: str
    reason: str
    evidence: str


class AccountStore(Protocol):
    """Accounts in the database; all methods raise UnavailableError without it."""

    async def tenants(self) -> Sequence[str]:
        """Return the tenants with accounts."""

    async def set_weights(self, tenant: str, weights: Mapping[str, float]) -> None:
        """Store the trust in accounts by principal."""

    async def quarantined_after(self, principal: str, most: int) -> Sequence[str]:
        """Return accounts in quarantine that follow a principal in alphabetical order."""

    async def quarantine_found(self, suspicions: Sequence[Suspicion]) -> Sequence[Suspicion]:
        """Quarantine accounts that are neither quarantined nor released; return those."""


class Screening:
    """Domain logic of the search, one tenant after the other."""

    def __init__(self, source: VoteSource, accounts: AccountStore) -> None:
        self._source, self._accounts = source, accounts
        self._threads = BoundedThreads(1, "screening")
        self._seen: dict[str, Fingerprint] = {}

    async def screen_all(self) -> None:
        """Search the votes of each tenant that has changed since the last search.

        Raises:
            UnavailableError: the database does not answer.
        """
        for tenant in await self._accounts.tenants():
            fingerprint = await self._source.fingerprint(tenant)
            if self._seen.get(tenant) == fingerprint:
                continue
            await self._screen(tenant)
            # The search itself changes the accounts.
            self._seen[tenant] = await self._source.fingerprint(tenant)

    async def _screen(self, tenant: str) -> None:
        columns = await self._source.columns(tenant, "")
        if len(columns) < LEAST_VOTES or len(np.unique(columns.account)) < LEAST_ACCOUNTS:
            return
        defence = await self._threads.run(lambda _: search(columns, now_us()))
        principals = columns.accounts.principals
        weights = dict(zip(principals, map(float, defence.trust), strict=True))
        await self._accounts.set_weights(tenant, weights)
        for one in await self._accounts.quarantine_found(suspicions(columns, defence)):
            QUARANTINED.labels(one.reason).inc()
            log.warning("account quarantined", extra=fields(reason=one.reason))


def search(columns: VoteColumns, now: int) -> Defence:
    """Return weights and findings for the votes. Blocking.

    Args:
        columns: at least LEAST_VOTES votes.
        now: present time in microseconds since 1970.
    """
    battles, counted = columns.battles(now), ~columns.is_quarantined

    def ratings(weight: Array) -> Array:
        # Accounts that are in quarantine already do not influence the ratings of the others.
        found = fit(replace(battles, weight=weight * counted)).rating / ELO_SCALE
        # Models without a rating count as average.
        known = np.isfinite(found)
        return np.where(known, found - found[known].sum() / max(1, known.sum()), 0.0)

    return defend(
        columns.votes(),
        columns.accounts.accounts(),
        now / 1e6,
        ratings,
        columns.accounts.trust_config(now),
        DetectionConfig(),
        released=columns.accounts.released,
    )


def suspicions(columns: VoteColumns, defence: Defence) -> list[Suspicion]:
    """Return the accounts with findings, each with its strongest evidence."""
    found: dict[str, Suspicion] = {}
    for finding in defence.findings:
        principal = columns.accounts.principals[finding.account]
        direction = "for" if finding.favours else "against"
        evidence = (
            f"{direction} {columns.models[finding.subject]}: {finding.votes} of "
            f"{finding.all_votes} votes, mean score {finding.score:.2f} where "
            f"{finding.expected:.2f} is expected, evidence {finding.evidence:.3g}"
        )
        found.setdefault(principal, Suspicion(principal, finding.reason.value, evidence))
    return list(found.values())
