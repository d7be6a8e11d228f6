"""Agreement of the reviewers of a tenant, for each scale and for the rankings.

Only the first reviews of an item count, as many as every item gets. Further reviews exist because
the first ones disagreed, and would lower the coefficient.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from human_evaluation.agreement import Agreement, Scale, krippendorff_alpha
from services.chassis.threads import BoundedThreads
from services.review.reviewing.item import SCALES, Opinion

RANKING = "ranking"


@dataclass(frozen=True)
class Counts:
    """Numbers of items, reviews, and disagreements without a resolution."""

    items: int
    reviews: int
    disagreements: int


@dataclass(frozen=True)
class TenantAgreement:
    """Counts, and the agreement by scale; `items` of an agreement is its number of answers."""

    counts: Counts
    by_scale: Mapping[str, Agreement]


class OpinionSource(Protocol):
    """Opinions in the database; all methods raise UnavailableError without it."""

    async def counts(self, tenant: str) -> Counts:
        """Return the counts of a tenant."""

    async def opinions(self, tenant: str) -> Sequence[Sequence[str]]:
        """Return the encoded opinions of each item of a tenant, oldest review first."""

    def decode(self, opinion: str) -> Opinion:
        """Decode an encoded opinion of a review."""


class Agreements:
    """Domain logic of GetAgreement; the computation runs in a thread."""

    def __init__(self, source: OpinionSource, raters: int) -> None:
        self._source, self._raters = source, raters
        self._threads = BoundedThreads(1, "agreement")

    async def of_tenant(self, tenant: str) -> TenantAgreement:
        """Return counts and agreement.

        Raises:
            UnavailableError: the database does not answer.
        """
        counts = await self._source.counts(tenant)
        encoded = await self._source.opinions(tenant)

        def compute(_: object) -> Mapping[str, Agreement]:
            items = [
                [self._source.decode(opinion) for opinion in of_item[: self._raters]]
                for of_item in encoded
            ]
            return agreements(items)

        return TenantAgreement(counts, await self._threads.run(compute))


def agreements(items: Sequence[Sequence[Opinion]]) -> Mapping[str, Agreement]:
    """Return the agreement for each scale and for the rankings.

    Args:
        items: opinions of each item. A unit of the coefficient is an answer.
    """
    found = {}
    for scale, name in enumerate(SCALES):
        units = (
            [opinion.scores[answer][scale] for opinion in opinions]
            for opinions in items
            for answer in range(len(opinions[0].scores) if opinions else 0)
        )
        found[name] = _alpha(units)
    ranked = [[each.ranks for each in opinions if each.ranks] for opinions in items]
    found[RANKING] = _alpha(unit for ranks in ranked for unit in zip(*ranks, strict=True))
    return found


def _alpha(units: Iterable[Iterable[int]]) -> Agreement:
    """Return alpha; 0 is a missing rating. The order of the ratings of a unit has no influence."""
    given = [[rating for rating in unit if rating] for unit in units]
    given = [ratings for ratings in given if len(ratings) > 1]
    table = np.full((len(given), max(map(len, given), default=0)), np.nan)
    for row, ratings in zip(table, given, strict=True):
        row[: len(ratings)] = ratings
    return krippendorff_alpha(table, Scale.ORDINAL)
