"""Rules for the number of reviews of an item, and for disagreements.

Two reviews disagree if their scores of an answer differ by `least_difference` or more on a scale
that both used, if both ranked and no answer is best in both rankings, or if their decisions on an
appeal differ. An item is complete when it has enough reviews and a majority of them agree pairwise.
Otherwise it gets further reviews, and then waits for a resolution. An appeal needs two reviews or
more, also where the settings ask for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from services.review.reviewing.item import Item, ItemState, Opinion, Review

# One reviewer alone could turn a text into training data of the guard.
LEAST_APPEAL_RATERS = 2
# Counts for more than the largest difference of scores, 4, because rankings train models.
BEST_DIFFERS = 5


@dataclass(frozen=True)
class RatingRules:
    """Rules of an installation.

    Args:
        raters: reviews of an item.
        further_raters: reviews more, if the first ones disagree.
        least_difference: of two scores on a scale that is a disagreement.
        resolve_own: a reviewer of an item may also resolve the disagreement.
    """

    raters: int
    further_raters: int
    least_difference: int
    resolve_own: bool

    def of(self, item: Item) -> "RatingRules":
        """Return the rules for an item."""
        if item.appeal is None:
            return self
        return replace(self, raters=max(self.raters, LEAST_APPEAL_RATERS))


@dataclass(frozen=True)
class Verdict:
    """State of an item by its reviews; `counted` are the reviews that agree once it is complete."""

    state: ItemState
    counted: Sequence[Review] = ()
    difference: int = 0


def judge(reviews: Sequence[Review], rules: RatingRules) -> Verdict:
    """Return the state of an item that is not resolved.

    Args:
        reviews: all reviews, oldest first. Of several majorities the largest counts, then the one
            with the earliest reviews.
        rules: of the installation.
    """
    if len(reviews) < rules.raters:
        return Verdict(ItemState.OPEN)
    for size in range(len(reviews), len(reviews) // 2, -1):
        for group in combinations(reviews, size):
            if spread(group, rules.least_difference) == 0:
                return Verdict(ItemState.COMPLETE, group)
    if len(reviews) < rules.raters + rules.further_raters:
        return Verdict(ItemState.OPEN)
    found = spread(reviews, rules.least_difference)
    return Verdict(ItemState.DISAGREED, difference=found)


def spread(reviews: Sequence[Review], least_difference: int) -> int:
    """Return the largest disagreement of two reviews, or 0."""
    opinions = [review.judgement.opinion for review in reviews]
    found = (disagreement(*pair, least_difference) for pair in combinations(opinions, 2))
    return max(found, default=0)


def disagreement(first: Opinion, second: Opinion, least_difference: int) -> int:
    """Return the largest difference of scores, plus BEST_DIFFERS for rankings and decisions."""
    scores = zip(first.scores, second.scores, strict=True)
    found = max(
        (abs(a - b) for pair in scores for a, b in zip(*pair, strict=True) if a and b), default=0
    )
    if found < least_difference:
        found = 0
    is_ranked = bool(first.ranks and second.ranks)
    is_opposite = is_ranked and not first.best & second.best
    return found + (BEST_DIFFERS if is_opposite or first.block != second.block else 0)
