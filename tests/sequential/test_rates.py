"""Mixture test of two rates: validity, its bound, and reference values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequential.rates import (
    EFFECTS,
    PARTS,
    RARE_EFFECTS,
    SHARE_EFFECTS,
    Array,
    log_e_at,
    log_e_value,
    log_likelihood_ratio,
    log_ratios,
)

COUNTS = st.integers(0, 200)


# Rates under the null hypothesis, and the tolerance: on its border and within.
NULL_RATES = [
    (0.02, 0.02, 0.0),
    (0.1, 0.1, 0.0),
    (0.5, 0.5, 0.0),
    (0.95, 0.95, 0.0),
    (0.3, 0.45, 0.0),
    (0.12, 0.1, 0.02),
    (0.4, 0.5, -0.1),
]


def binomial(trials: int, rate: float) -> Array:
    return np.array(
        [math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(trials + 1)]
    )


@pytest.mark.parametrize("effects", [EFFECTS, RARE_EFFECTS, SHARE_EFFECTS])
@pytest.mark.parametrize(("rate", "other_rate", "tolerance"), NULL_RATES)
@pytest.mark.parametrize(("trials", "other_trials"), [(12, 9), (3, 40), (25, 25)])
def test_mean_e_value_is_at_most_one(
    rate: float,
    other_rate: float,
    tolerance: float,
    trials: int,
    other_trials: int,
    effects: Array,
) -> None:
    """Compute the mean exactly over all outcomes."""
    x1, x2 = np.arange(trials + 1.0)[:, None], np.arange(other_trials + 1.0)
    chances = binomial(trials, rate)[:, None] * binomial(other_trials, other_rate)
    e_values = np.exp(log_e_value(x1, trials, x2, other_trials, tolerance, effects))
    assert 0 < float((chances * e_values).sum()) <= 1 + 1e-5


def test_mean_evidence_against_known_rates_is_one() -> None:
    x1, x2 = np.arange(13.0)[:, None], np.arange(21.0)
    chances = binomial(12, 0.05)[:, None] * binomial(20, 0.05)
    evidence = log_e_at(x1, np.full((13, 1), 12.0), x2, np.full(21, 20.0), 0.05)
    assert float((chances * np.exp(evidence)).sum()) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([0, 1] * 12, id="equal shares"),
        pytest.param([1] * 10 + [1, 1, 0] * 3 + [0, 1] * 3, id="rising share"),
    ],
)
def test_no_rule_for_stopping_raises_the_mean_above_one(order: list[int]) -> None:
    """Compute the best rule backwards: stop where the e-value is above the mean of going on."""
    numbers = [(order[:k].count(0), order[:k].count(1)) for k in range(len(order) + 1)]
    e_values = [
        np.exp(log_e_value(np.arange(n1 + 1.0)[:, None], n1, np.arange(n2 + 1.0), n2))
        for n1, n2 in numbers
    ]
    for rates in [(0.05, 0.05), (0.3, 0.3), (0.6, 0.6), (0.95, 0.95), (0.5, 0.6)]:
        value = e_values[-1]
        for arm, e_value in zip(reversed(order), reversed(e_values[:-1]), strict=True):
            after = value.take(range(1, value.shape[arm]), arm)
            without = value.take(range(value.shape[arm] - 1), arm)
            value = np.maximum(e_value, rates[arm] * after + (1 - rates[arm]) * without)
        assert float(value[0, 0]) <= 1 + 1e-5


def test_gain_of_five_points_is_found_without_the_price_of_an_unknown_rate() -> None:
    """Before, 2,500 users an arm gave an e-value of 2.5: the prior of the rate cost four nats."""
    assert float(log_e_value(1_625, 2_500, 1_500, 2_500)) > math.log(20)
    assert float(log_e_value(1_300, 2_000, 4_800, 8_000)) > math.log(20)


@settings(max_examples=50)
@given(
    COUNTS,
    COUNTS,
    COUNTS,
    COUNTS,
    st.sampled_from([0.0, 0.0025, 0.02, -0.1]),
    st.floats(0.0, 1.0),
)
def test_evidence_is_the_least_over_the_border_and_falls_with_the_tolerance(
    x1: int, rest1: int, x2: int, rest2: int, tolerance: float, part: float
) -> None:
    arguments = (x1, x1 + rest1, x2, x2 + rest2)
    log_e = float(log_e_value(*arguments, tolerance))
    low, high = max(0.0, -tolerance), min(1.0, 1.0 - tolerance)
    up, down = np.outer(EFFECTS, 1 - PARTS), np.outer(EFFECTS, PARTS)
    for rate in low + (high - low) * np.array([part, part / 20, 1 - part / 20]):
        ratios = log_ratios(np.array(x1), np.array(x1 + rest1), rate + tolerance, up)
        ratios = ratios + log_ratios(np.array(x2), np.array(x2 + rest2), rate, -down)
        assert log_e <= np.logaddexp.reduce(ratios, axis=None) - math.log(ratios.size) + 1e-5
    assert float(log_e_value(*arguments, tolerance + 0.05)) <= log_e + 1e-5


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_evidence_is_below_the_ratio_of_the_best_likelihoods(
    x1: int, rest1: int, x2: int, rest2: int
) -> None:
    first, trials, second, other_trials = np.array([x1, x1 + rest1, x2, x2 + rest2], float)
    ratio = log_likelihood_ratio(first, trials, second, other_trials)
    assert log_e_value(first, trials, second, other_trials) <= ratio + 1e-5


def test_arrays_give_the_values_of_single_calls() -> None:
    x1, n1 = np.array([3.0, 40.0, 0.0]), np.array([50.0, 60.0, 0.0])
    together = log_e_value(x1, n1, 20, 300, 0.01)
    single = [float(log_e_value(x, n, 20, 300, 0.01)) for x, n in zip(x1, n1, strict=True)]
    assert together == pytest.approx(single, rel=1e-9)


@pytest.mark.parametrize(
    ("events", "others", "log_odds"),
    [
        (30, 30, -1.833743756587893),
        (12, 4, 0.7505497648320638),
        (90, 60, 0.715504441633982),
        (5, 45, 16.159191825409174),
    ],
)
def test_ratios_over_a_uniform_prior_equal_savvi(events: int, others: int, log_odds: float) -> None:
    """Compare with `Multinomial(0.05, theta_0=[0.5, 0.5], k=2).odds` of savvi 0.3.1.

    savvi's prior of the rate is uniform, and its null rate is 0.5.
    """
    rates = (np.arange(20_000) + 0.5) / 20_000
    ratios = log_ratios(
        np.array(float(events)), np.array(float(events + others)), 0.5, np.log(rates / (1 - rates))
    )
    assert math.log(np.exp(ratios).mean()) == pytest.approx(log_odds, rel=1e-6)
