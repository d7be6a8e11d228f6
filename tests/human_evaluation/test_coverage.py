"""Intervals contain the true ratings as often as stated, in 1,000 simulations of 5,000 votes."""

from collections.abc import Callable

import numpy as np
import pytest

from human_evaluation.battles import Battles
from human_evaluation.bradley_terry import ELO_SCALE, fit

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

Simulate = Callable[..., Battles]
STRENGTHS = np.linspace(-0.6, 0.6, 8)
TRUTH = 1000 + ELO_SCALE * STRENGTHS
VOTES, SIMULATIONS, BUSY = 5_000, 1_000, 5


def voters(rng: np.random.Generator) -> np.ndarray:
    """Return voters of whom the first five give half of the votes, the other 1,000 the rest."""
    few, many = rng.integers(0, BUSY, VOTES // 2), rng.integers(BUSY, 1_000 + BUSY, VOTES // 2)
    return np.concatenate((few, many))


def test_intervals_of_independent_votes_cover(simulate: Simulate) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(SIMULATIONS):
        ratings = fit(simulate(STRENGTHS, VOTES, rng))
        covered.append((ratings.low <= TRUTH) & (ratings.high >= TRUTH))
    print(f"coverage {np.mean(covered):.4f}, by model {np.mean(covered, axis=0).round(3)}")
    assert 0.93 <= np.mean(covered) <= 0.97
    assert (np.abs(np.mean(covered, axis=0) - 0.95) < 0.025).all()


def test_intervals_with_style_cover(simulate: Simulate) -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(SIMULATIONS):
        battles = simulate(STRENGTHS, VOTES, rng, style=np.array([0.2, -0.1]))
        ratings = fit(battles, style=True)
        covered.append((ratings.low <= TRUTH) & (ratings.high >= TRUTH))
    print(f"coverage {np.mean(covered):.4f}")
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("deviation", [0.0, 0.3, 0.6])
def test_intervals_by_voter_cover_if_five_give_half_of_the_votes(
    simulate: Simulate, deviation: float
) -> None:
    """Opinions of a voter deviate from the strengths, so that the votes of a voter are dependent.

    The truth is then the mean of the ratings, because deviations of opinions shrink differences.
    """
    rng = np.random.default_rng(2)
    rating, low, high, plain = [], [], [], []
    for _ in range(SIMULATIONS):
        effects = rng.normal(0, deviation, (1_000 + BUSY, 8))
        battles = simulate(STRENGTHS, VOTES, rng, effects=effects, voter=voters(rng))
        ratings, independent = fit(battles, cluster_voters=True), fit(battles)
        rating.append(ratings.rating)
        low.append(ratings.low)
        high.append(ratings.high)
        plain.append(independent.error)
    truth = np.mean(rating, axis=0) if deviation else TRUTH
    coverage = float(np.mean((np.array(low) <= truth) & (truth <= np.array(high))))
    without = float(np.mean(np.abs(np.array(rating) - truth) <= 1.96 * np.array(plain)))
    print(f"deviation {deviation}: coverage {coverage:.4f}, without clusters {without:.4f}")
    assert 0.93 <= coverage <= 0.97
    assert deviation == 0 or without < 0.85
