"""Intervals of fractions of dependent answers."""

import math

import pytest

from training.figures import Estimate, change_bounds, clustered_mean, share_bounds

Z_95 = 1.959964


def test_independent_answers_have_the_wilson_interval() -> None:
    # 5 of 10: Newcombe, Statistics in Medicine 17 (1998), gives 0.2366 to 0.7634.
    five_of_ten = Estimate(0.5, math.sqrt(0.5 * 0.5 / 10), 10, 10)
    assert share_bounds(five_of_ten, Z_95) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_dependent_answers_count_as_fewer_answers() -> None:
    """Use four equal answers to each of five prompts, which count hardly more than five answers."""
    values = [float(prompt < 2) for prompt in range(5) for _ in range(4)]
    found = clustered_mean(values, [str(place // 4) for place in range(20)])
    worth = 0.4 * 0.6 / found.error**2
    assert worth == pytest.approx(4)  # five, minus one for the small-sample factor
    alone = Estimate(0.4, math.sqrt(0.24 / worth), 20, 5)
    assert share_bounds(found, Z_95) == pytest.approx(share_bounds(alone, Z_95))
    assert share_bounds(found, Z_95)[1] - share_bounds(found, Z_95)[0] > 0.5


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_each_agreeing_cluster_counts_as_one_answer(value: float) -> None:
    few, many = (
        share_bounds(Estimate(value, 0.0, 8 * clusters, clusters), Z_95) for clusters in (3, 300)
    )
    for low, high in (few, many):
        assert 0 <= low <= value + 1e-12 and value - 1e-12 <= high <= 1
    assert few[1] - few[0] > 0.5
    assert many[1] - many[0] < 0.12


def test_single_cluster_has_no_bounds_and_few_count_at_most_their_answers() -> None:
    assert share_bounds(Estimate(0.5, math.inf, 4, 1), Z_95) == pytest.approx((0.0, 1.0))
    steady = Estimate(0.5, 1e-9, 8, 4)  # clusters with equal fractions
    assert share_bounds(steady, Z_95) == share_bounds(
        Estimate(0.5, math.sqrt(0.25 / 8), 8, 4), Z_95
    )


def test_change_interval_is_symmetric_within_its_limits() -> None:
    assert change_bounds(Estimate(0.1, 0.05, 10, 10), 2.0) == pytest.approx((0.0, 0.2))
    assert change_bounds(Estimate(-0.9, 0.1, 10, 10), 2.0) == pytest.approx((-1.0, -0.7))
    assert change_bounds(Estimate(0.0, math.inf, 1, 1), 2.0) == (-1.0, 1.0)
