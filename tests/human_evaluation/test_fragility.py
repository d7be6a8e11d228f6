"""Fewest votes whose removal changes the leader, against all removals of small sets."""

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
import pytest

from human_evaluation.battles import Battles
from human_evaluation.bradley_terry import fit
from human_evaluation.fragility import Fragility, fragility

Simulate = Callable[..., Battles]
MARGIN = 0.02  # Elo points


def small_battles(rng: np.random.Generator) -> Battles:
    models, votes = rng.integers(3, 5), rng.integers(10, 25)
    strengths = rng.normal(0, 0.5, models)
    first = rng.integers(0, models, votes)
    second = (first + rng.integers(1, models, votes)) % models
    chance = 1 / (1 + np.exp(strengths[second] - strengths[first]))
    score = np.where(rng.random(votes) < 0.15, 0.5, rng.random(votes) < chance)
    names = tuple("abcd"[:models])
    return Battles(models=names, first=first, second=second, score=score)


def leader_without(battles: Battles, removed: list[int], leader: int) -> int:
    """Return the leader after a removal; the old one if both are not ranked with each other."""
    ratings = fit(battles.select(np.delete(np.arange(len(battles)), removed)))
    if not ratings.ranked[leader]:
        return leader
    new = int(ratings.order[0])
    return new if ratings.rating[new] > ratings.rating[leader] + MARGIN else leader


def smallest_removal(battles: Battles, leader: int, below: int) -> int | None:
    """Return the size of the smallest removal below a limit by trying all."""
    kinds = [
        (*sorted((f, s)), score if f < s else 1 - score)
        for f, s, score in zip(battles.first, battles.second, battles.score, strict=True)
    ]
    for size in range(1, below):
        seen = set()
        for removed in combinations(range(len(battles)), size):
            kind = tuple(sorted(kinds[vote] for vote in removed))
            if kind in seen:
                continue
            seen.add(kind)
            if leader_without(battles, list(removed), leader) != leader:
                return size
    return None


def found(count: int, largest: int) -> Iterator[tuple[Battles, Fragility]]:
    """Yield small sets of votes with their fragility, up to a number of removed votes."""
    rng = np.random.default_rng(0)
    while count:
        battles = small_battles(rng)
        fragile = fragility(battles)
        if fragile is not None and fragile.removed <= largest:
            count -= 1
            yield battles, fragile


def is_smallest(battles: Battles, fragile: Fragility) -> bool:
    """Check that the removal changes the leader, and compare its size with all removals."""
    leader = battles.models.index(fragile.leader)
    assert fragile.leader == battles.models[fit(battles).order[0]]
    new = leader_without(battles, fragile.votes.tolist(), leader)
    assert battles.models[new] == fragile.new_leader != fragile.leader
    return smallest_removal(battles, leader, fragile.removed) is None


def test_fewest_votes_equal_the_smallest_of_all_removals() -> None:
    cases = list(found(8, largest=2))
    assert {fragile.removed for _, fragile in cases} == {1, 2}
    assert all(is_smallest(battles, fragile) for battles, fragile in cases)


@pytest.mark.long
def test_fewest_votes_equal_the_smallest_of_all_removals_in_more_cases() -> None:
    cases = list(found(150, largest=4))
    assert {fragile.removed for _, fragile in cases} == {1, 2, 3, 4}
    smallest = sum(is_smallest(battles, fragile) for battles, fragile in cases)
    print(f"{smallest} of {len(cases)} removals are smallest")
    assert smallest >= 147


@pytest.mark.parametrize("style", [False, True])
def test_removal_changes_the_leader(simulate: Simulate, style: bool) -> None:
    strengths = np.array([0.15, 0.0, -0.1, -0.4])
    features = np.array([0.5]) if style else None
    battles = simulate(strengths, 3_000, np.random.default_rng(1), style=features)
    fragile = fragility(battles, style=style)
    assert fragile is not None
    assert fragile.leader == "model 0"
    assert len(set(fragile.votes.tolist())) == fragile.removed
    assert fragile.share == fragile.removed / 3_000
    assert 10 < fragile.removed < 200
    # The influences of the whole set are nearly right for few of 3,000 votes.
    assert fragile.first_order == pytest.approx(fragile.removed, rel=0.2)
    left = battles.select(np.delete(np.arange(3_000), fragile.votes))
    ratings = fit(left, style=style)
    assert ratings.models[ratings.order[0]] == fragile.new_leader
    # One vote less of those does not suffice.
    fewer = battles.select(np.delete(np.arange(3_000), fragile.votes[1:]))
    assert fit(fewer).order[0] == 0


def test_votes_of_weight_zero_and_of_unranked_models_do_not_count() -> None:
    battles = next(found(1, largest=2))[0]
    more = Battles(
        models=(*battles.models, "new"),
        first=np.concatenate(([0, 0], battles.first)),
        second=np.concatenate(([1, len(battles.models)], battles.second)),
        score=np.concatenate(([0.0, 0.0], battles.score)),
        weight=np.concatenate(([0.0, 1.0], battles.weight)),
    )
    expected, fragile = fragility(battles), fragility(more)
    assert expected is not None
    assert fragile is not None
    assert (fragile.leader, fragile.new_leader) == (expected.leader, expected.new_leader)
    assert fragile.share == expected.share
    assert fragile.votes.tolist() == [vote + 2 for vote in expected.votes]


def test_removal_changes_one_of_two_equal_leaders() -> None:
    """The leader is the model that the ratings show first, also if rounding decides."""
    first, second = np.array([0, 1, 0, 1, 2, 2]), np.array([1, 0, 2, 2, 0, 1])
    battles = Battles(models=("a", "b", "c"), first=first, second=second, score=np.ones(6))
    fragile = fragility(battles)
    assert fragile is not None
    assert fragile.leader == battles.models[fit(battles).order[0]]
    assert fragile.removed == 1


def test_no_leader_without_two_ranked_models() -> None:
    battles = Battles(
        models=("a", "b"), first=np.array([0]), second=np.array([1]), score=np.array([1.0])
    )
    assert fragility(battles) is None
