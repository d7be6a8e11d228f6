"""Choice of models: little-known pairs more often, both orders, all pairs."""

import random
from collections import Counter

import pytest

from services.review.arena.pairing import PairCount, draw_pair, weight

MODELS = ["alder", "birch", "cedar"]


def draws(counts: dict[tuple[str, str], PairCount], number: int = 4_000) -> Counter[frozenset[str]]:
    source = random.Random(7)
    return Counter(frozenset(draw_pair(MODELS, counts, source)) for _ in range(number))


def test_pairs_without_votes_are_drawn_equally_often_in_both_orders() -> None:
    source = random.Random(7)
    found = Counter(draw_pair(MODELS, {}, source) for _ in range(6_000))
    assert len(found) == 6
    assert max(found.values()) < 1.2 * min(found.values())


def test_pair_with_few_votes_is_drawn_more_often() -> None:
    known = {("alder", "birch"): PairCount(50, 50), ("alder", "cedar"): PairCount(50, 50)}
    found = draws(known)
    assert found[frozenset(("birch", "cedar"))] > 0.95 * found.total()


def test_pair_of_equal_models_is_drawn_more_often_than_a_decided_one() -> None:
    counts = {("alder", "birch"): PairCount(99, 1), ("alder", "cedar"): PairCount(50, 50)}
    counts[("birch", "cedar")] = PairCount(10_000, 10_000)
    found = draws(counts)
    assert found[frozenset(("alder", "cedar"))] > 1.5 * found[frozenset(("alder", "birch"))]


@pytest.mark.parametrize("votes", [0, 1, 10, 1_000])
def test_weight_is_positive_and_falls_with_the_votes(votes: int) -> None:
    assert 0 < weight(PairCount(ties=votes + 1)) < weight(PairCount(ties=votes))


def test_seed_determines_the_pair() -> None:
    pairs = [draw_pair(MODELS, {}, random.Random(3)) for _ in range(2)]
    assert pairs[0] == pairs[1]
