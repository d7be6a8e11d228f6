"""Ranks, shares of victories, and battles that a decision needs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from human_evaluation.battles import Battles
from human_evaluation.bradley_terry import fit
from human_evaluation.ranks import chances, neighbours, rank_ranges, win_matrix

Simulate = Callable[..., Battles]


def test_rank_counts_models_whose_interval_lies_above(simulate: Simulate) -> None:
    strengths = np.array([0.0, 1.0, 0.02, -1.0])
    battles = simulate(strengths, 4_000, np.random.default_rng(0))
    ratings = fit(battles)
    assert ratings.rank.tolist() == [2, 1, 2, 4]
    assert ratings.order.tolist()[0] == 1
    ranges = rank_ranges(ratings)
    assert ranges.low.tolist() == [2, 1, 2, 4]
    assert ranges.high.tolist() == [3, 1, 3, 4]


def test_ranges_of_equal_models_are_all_ranks_with_the_stated_confidence(
    simulate: Simulate,
) -> None:
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(60):
        ranges = rank_ranges(fit(simulate(np.zeros(6), 600, rng)))
        wrong += bool((ranges.low > 1).any() or (ranges.high < 6).any())
    assert wrong <= 9  # 3 are expected; more than 9 in one of 1,000 cases


def test_win_matrix_has_observed_shares() -> None:
    battles = Battles(
        models=("a", "b", "c"),
        first=np.array([0, 1, 1, 0]),
        second=np.array([1, 0, 2, 1]),
        score=np.array([1.0, 0.5, 1.0, 0.0]),
        weight=np.array([2.0, 1.0, 1.0, 0.0]),
    )
    matrix = win_matrix(battles)
    assert matrix.votes.tolist() == [[0, 2, 0], [2, 0, 1], [0, 1, 0]]
    assert matrix.share[0, 1] == pytest.approx(2.5 / 3)
    assert matrix.share[1, 0] == pytest.approx(0.5 / 3)
    assert matrix.share[2, 1] == 0
    assert np.isnan(matrix.share[0, 2])
    assert np.isnan(matrix.share[0, 0])


def test_stated_number_of_battles_reaches_the_needed_precision() -> None:
    """Add the battles with the expected result; the error is then that for a power of 80 %."""
    first, second = np.array([0, 1, 0, 1, 2, 0]), np.array([1, 0, 2, 2, 0, 1])
    number = np.array([52, 48, 55, 50, 46, 40])
    score = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.5])
    order = np.repeat(np.arange(6), number)
    battles = Battles(
        models=("a", "b", "c"), first=first[order], second=second[order], score=score[order]
    )
    battles = replace(battles, score=np.where(np.arange(len(battles)) % 3, battles.score, 0.0))
    ratings = fit(battles)
    pair = neighbours(ratings)[0]
    assert pair.votes is not None
    assert pair.votes > 100
    upper, lower = ratings.models.index(pair.upper), ratings.models.index(pair.lower)
    # Votes with as many ties as before, so that the dispersion stays.
    chance = chances(ratings)[upper, lower]
    ties = (1 - ratings.dispersion) * 4 * chance * (1 - chance)
    shares = np.array([chance - ties / 2, ties, 1 - chance - ties / 2])
    added = np.repeat([1.0, 0.5, 0.0], np.round(shares * pair.votes).astype(int))
    more = Battles(
        models=ratings.models,
        first=np.concatenate((battles.first, np.full(len(added), upper))),
        second=np.concatenate((battles.second, np.full(len(added), lower))),
        score=np.concatenate((battles.score, added)),
    )
    after = fit(more)
    difference = after.rating[upper] - after.rating[lower]
    assert difference == pytest.approx(pair.difference, rel=0.02)
    assert after.difference_error[upper, lower] == pytest.approx(difference / 2.8016, rel=0.05)
    decided = {(one.upper, one.lower): one.votes for one in neighbours(after)}
    assert decided[pair.upper, pair.lower] == 0


def test_equal_ratings_cannot_be_decided() -> None:
    battles = Battles(
        models=("a", "b"), first=np.zeros(4, int), second=np.ones(4, int), score=np.full(4, 0.5)
    )
    assert neighbours(fit(battles))[0].votes is None


def test_ties_need_fewer_battles_than_victories() -> None:
    """With two models, the error falls with the root of the number of votes, ties included."""
    score = np.repeat([1.0, 0.0, 0.5], [30, 25, 60])
    count = len(score)
    battles = Battles(
        models=("a", "b"), first=np.zeros(count, int), second=np.ones(count, int), score=score
    )
    pair = neighbours(fit(battles))[0]
    expected = count * ((2.801585 * pair.error / pair.difference) ** 2 - 1)
    assert pair.votes == pytest.approx(expected, rel=1e-3)
