"""Fewest votes whose removal changes the leader.

An interval describes the sampling of votes; it does not show that few votes decide the first rank.
The influence of each vote on the difference of two ratings orders the votes (AMIP: Broderick,
Giordano and Meager 2020, arXiv 2011.14999; for Bradley-Terry: Huang, Shen, Wei and Broderick 2025,
arXiv 2508.11847). Here each removal is verified by a fit of the remaining votes, and improved with
the influences after the removal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from human_evaluation.battles import Array, Battles, Index
from human_evaluation.bradley_terry import connected, fit
from human_evaluation.likelihood import Likelihood, Maximum, Rows, follow, maximize, rows_of

# Removals may leave a model without victories. The ridge keeps its strength finite; a strength
# changes by less than 1e-6 of itself for a model with 10 votes.
RIDGE = 1e-6
MARGIN = 1e-4  # in log-odds, 0.02 Elo points; equal ratings are no change, also with the ridge
IMPROVEMENTS = 8
FIRST_ROWS = 4_096  # rows that are sorted at first for a sum of influences
MAX_ROWS_READ = 2_000_000  # by fits after each of a few votes; about a second


@dataclass(frozen=True, eq=False)
class Fragility:
    """Removal of votes that changes the leader.

    Attributes:
        leader: model with the highest rating.
        new_leader: model with the highest rating after the removal.
        removed: number of removed votes.
        share: of all votes with a positive weight among ranked models.
        votes: indices of the removed votes, [removed].
        first_order: number by the influences alone, as in AMIP.
    """

    leader: str
    new_leader: str
    removed: int
    share: float
    votes: Index
    first_order: int


def fragility(
    battles: Battles, *, style: bool = False, style_penalty: float = 0.0
) -> Fragility | None:
    """Return the smallest removal found, or None with less than two ranked models or none found.

    The removal is an upper bound of the minimum, and equal to it in nearly all small sets.

    Args:
        battles: votes; those of weight 0 and with unranked models are left out.
        style: as in `bradley_terry.fit`. Features keep the scale that they have with all votes.
        style_penalty: as in `bradley_terry.fit`.
    """
    ratings = fit(battles, style=style, style_penalty=style_penalty)
    ranked = ratings.ranked
    used = (battles.weight > 0) & ranked[battles.first] & ranked[battles.second]
    places = np.flatnonzero(used)
    if not len(places):
        return None
    rows, row = rows_of(battles.select(places), style=style)
    search = _Search(rows, style_penalty, ratings.order)
    best, first_order = search.run()
    if best is None:
        return None
    removed = _first_of_rows(row, best)
    new = search.new_leader(best, search.fit(best))
    assert new is not None  # the search returns verified removals
    return Fragility(
        leader=battles.models[search.leader],
        new_leader=battles.models[new],
        removed=len(removed),
        share=len(removed) / len(places),
        votes=places[removed],
        first_order=first_order,
    )


class _Search:
    """Search for the smallest removal; a removal is a number of votes for each row, [N]."""

    def __init__(self, rows: Rows, penalty: float, ranked: Index) -> None:
        """Start from all votes; `ranked` are the ranked models, the leader first."""
        self.rows, self.penalty, self.ranked, self.leader = rows, penalty, ranked, int(ranked[0])
        self.full = maximize(rows, penalty=penalty, ridge=RIDGE)
        self.hessian = Likelihood(rows, penalty, RIDGE).hessian(self.full.chance)

    def fit(self, removal: Array) -> Maximum:
        """Return the maximum without the removed votes."""
        rows, start = self.rows, self.full.parameters
        left = rows.with_count(rows.count - removal)
        if rows.features.shape[1]:
            lost, chance = np.flatnonzero(removal), self.full.chance
            gone = rows.select(lost)
            curvature = gone.weight * removal[lost] * chance[lost] * (1 - chance[lost])
            hessian = self.hessian - gone.gram(curvature)
            found = follow(left, start, hessian, penalty=self.penalty, ridge=RIDGE)
            if found is not None:
                return found
        return maximize(left, penalty=self.penalty, ridge=RIDGE, start=start)

    def new_leader(self, removal: Array, maximum: Maximum) -> int | None:
        """Return the model that leads after a removal, or None if the leader is the same.

        Only models that are then connected with the old leader in both directions are compared.
        """
        advantage = maximum.parameters - maximum.parameters[self.leader] - MARGIN
        if advantage[self.ranked].max() <= 0:
            return None
        left, rows = removal < self.rows.count, self.rows
        component = connected(rows.models, rows.first[left], rows.second[left], rows.score[left])
        compared = self.ranked[component[self.ranked] == component[self.leader]]
        new = int(compared[advantage[compared].argmax()])
        return new if advantage[new] > 0 else None

    def run(self) -> tuple[Array | None, int]:
        """Return the best removal and the smallest number by influences alone."""
        strengths = self.full.parameters
        gaps = {k: strengths[self.leader] - strengths[k] for k in self.ranked if k != self.leader}
        influences: dict[int, Array] = {}
        numbers: dict[int, int] = {}
        leverage = self.leveraged(self.full)
        length = np.sqrt((self.rows.features**2).sum(axis=1))
        limits = np.abs(leverage).max(), (np.abs(leverage) * length).max()

        def is_far(gap: float, influence: float) -> bool:
            return bool(numbers) and gap / max(influence, 1e-300) > 2 * min(numbers.values()) + 10

        for challenger in sorted(gaps, key=gaps.__getitem__):
            advantage = self.advantage(self.full, challenger)
            of_models, of_features = np.split(advantage, [self.rows.models])
            # A bound that needs no row: most challengers are far behind.
            bound = np.ptp(of_models) * limits[0] + np.linalg.norm(of_features) * limits[1]
            if is_far(gaps[challenger], float(bound)):
                continue
            influence = self.rows.logits(advantage) * leverage
            if is_far(gaps[challenger], float(influence.max())):
                continue
            numbers[challenger] = self.first_order(influence, gaps[challenger])
            influences[challenger] = influence
        best: Array | None = None
        for challenger in sorted(numbers, key=numbers.__getitem__):
            best = self.smaller(challenger, influences[challenger], numbers[challenger], best)
        return best, min(numbers.values())

    def influence(self, maximum: Maximum, challenger: int) -> Array:
        """Return the change of the leader's advantage by a vote of each row, [N].

        The change is positive if the vote helps the leader. A vote's own part in the fit counts.
        """
        return self.rows.logits(self.advantage(maximum, challenger)) * self.leveraged(maximum)

    def advantage(self, maximum: Maximum, challenger: int) -> Array:
        """Return the change of the leader's advantage by a unit of each score, [P]."""
        advantage: Array = maximum.inverse[self.leader] - maximum.inverse[challenger]
        return advantage

    def leveraged(self, maximum: Maximum) -> Array:
        """Return the residual of a vote of each row, divided by the part outside its own fit."""
        weight, chance = self.rows.weight, maximum.chance
        own = weight * chance * (1 - chance) * self.leverage(maximum)
        residual: Array = weight * (self.rows.score - chance) / (1 - np.minimum(own, 0.9))
        return residual

    def leverage(self, maximum: Maximum) -> Array:
        """Return the variance of each row's log-odds under the model, [N]."""
        rows, inverse = self.rows, maximum.inverse
        variance = np.diag(inverse)
        total: Array = variance[rows.first] + variance[rows.second]
        total -= 2 * inverse.ravel()[rows.first * len(inverse) + rows.second]
        effects = inverse[rows.models :, rows.models :]
        for feature in range(rows.features.shape[1]):
            # Covariance with twice the strengths and with all coefficients.
            cross = 2 * inverse[rows.models + feature, : rows.models]
            part = cross[rows.first] - cross[rows.second] + rows.features @ effects[feature]
            total += rows.features[:, feature] * part
        return total

    def first_order(self, influence: Array, gap: float) -> int:
        """Return the number of votes whose influences add up to the gap."""
        for order in _largest(influence, FIRST_ROWS):
            counts = self.rows.count[order]
            sums = np.cumsum(counts * influence[order])
            last = int(np.searchsorted(sums, gap))
            if last < len(order):
                before = sums[last - 1] if last else 0.0
                rest = np.ceil((gap - before) / influence[order[last]])
                return int(counts[:last].sum() + max(rest, 1))
        return int(counts.sum())

    def strongest(self, influence: Array, number: int) -> Array:
        """Return the removal of a number of votes with the largest influences above 0."""
        # Each row has a vote at least.
        order = next(_largest(influence, max(number, 1)))
        counts = self.rows.count[order]
        removal = np.zeros(len(influence))
        removal[order] = np.clip(number - (np.cumsum(counts) - counts), 0, counts)
        return removal

    def changing(self, challenger: int, influence: Array, number: int) -> Array | None:
        """Return a removal of at most this number of votes that changes the leader, if found.

        After a removal without success, influences are those of the remaining votes. A few votes
        are also removed one by one, with new influences after each.
        """
        removal = self.strongest(influence, number)
        seen: list[Array] = []
        while len(seen) < IMPROVEMENTS and not any((removal == old).all() for old in seen):
            maximum = self.fit(removal)
            if self.new_leader(removal, maximum) is not None:
                return removal
            seen.append(removal)
            removal = self.strongest(self.influence(maximum, challenger), number)
        if number * len(influence) > MAX_ROWS_READ:
            return None
        removal = np.zeros(len(influence))
        for _ in range(number):
            influence = np.where(removal < self.rows.count, influence, -np.inf)
            removal[influence.argmax()] += 1
            maximum = self.fit(removal)
            if self.new_leader(removal, maximum) is not None:
                return removal
            influence = self.influence(maximum, challenger)
        return None

    def smaller(
        self, challenger: int, influence: Array, number: int, best: Array | None
    ) -> Array | None:
        """Return a removal in favour of a challenger that is smaller than `best`, or `best`.

        Args:
            influence: of the rows with all votes, [N].
            number: estimate of the votes to be removed.
        """
        most = int(self.rows.count[influence > 0].sum()) if best is None else int(best.sum()) - 1
        low, high, tried = 0, most + 1, min(number, most)
        while high - low > 1:
            found = self.changing(challenger, influence, tried)
            if found is not None:
                best, high = found, int(found.sum())
            else:
                low = tried
            # Upwards from an estimate in doubling steps, since the largest number may be far.
            tried = (low + high) // 2
            if high == most + 1:
                tried = min(2 * low, most) if low < most else most
        return best


def _largest(values: Array, number: int) -> Iterator[Index]:
    """Yield the places of the largest values above 0, the largest first.

    The first array has at least a number of places, if there are so many; each further one has
    four times as many, up to all.
    """
    while True:
        if number >= len(values):
            chosen = np.flatnonzero(values > 0)
        else:
            least = np.partition(values, len(values) - number)[len(values) - number]
            chosen = np.flatnonzero((values >= least) & (values > 0))
        # The order of equal values is that of their places, as if all were sorted.
        yield chosen[np.argsort(-values[chosen], kind="stable")]
        if number >= len(values):
            return
        number *= 4


def _first_of_rows(row: Index, removal: Array) -> Index:
    """Return as many of the first votes of each row as the removal says, in ascending order."""
    order = np.argsort(row, kind="stable")
    sizes = np.bincount(row)
    position = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[position < removal[row[order]]])
