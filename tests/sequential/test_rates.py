"""Mixture test of two rates: validity, its bound, and reference values."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequential.rates import (
    LOW,
    RARE,
    UNIFORM,
    Prior,
    log_e_value,
    log_likelihood_ratio,
    log_one_rate,
)

COUNTS = st.integers(0, 200)


@pytest.mark.parametrize("prior", [UNIFORM, LOW, RARE])
@pytest.mark.parametrize(
    ("rate", "other_rate", "tolerance"),
    [(0.1, 0.1, 0.0), (0.5, 0.5, 0.0), (0.7, 0.7, 0.0), (0.12, 0.1, 0.02), (0.4, 0.5, -0.1)],
)
def test_mean_e_value_is_at_most_one_on_the_border(
    rate: float, other_rate: float, tolerance: float, prior: Prior
) -> None:
    """Compute the mean exactly over all outcomes of 12 and 9 trials."""
    x1, x2 = np.meshgrid(np.arange(13), np.arange(10), indexing="ij")
    chances = np.array([math.comb(12, k) * rate**k * (1 - rate) ** (12 - k) for k in range(13)])[
        :, None
    ] * [math.comb(9, k) * other_rate**k * (1 - other_rate) ** (9 - k) for k in range(10)]
    mean = float((chances * np.exp(log_e_value(x1, 12, x2, 9, tolerance, prior))).sum())
    assert 0 < mean <= 1


def test_mean_evidence_against_a_known_rate_is_one() -> None:
    events = np.arange(31.0)
    chances = np.array([math.comb(30, k) * 0.2**k * 0.8 ** (30 - k) for k in range(31)])
    mean = float((chances * np.exp(log_one_rate(events, np.full(31, 30.0), 0.2))).sum())
    assert mean == pytest.approx(1.0, rel=1e-9)


@settings(max_examples=50)
@given(COUNTS, COUNTS, COUNTS, COUNTS, st.sampled_from([0.0, 0.0025, 0.02, -0.1]))
def test_evidence_is_below_its_bound_and_falls_with_the_tolerance(
    x1: int, rest1: int, x2: int, rest2: int, tolerance: float
) -> None:
    arguments = (x1, x1 + rest1, x2, x2 + rest2)
    log_e = log_e_value(*arguments, tolerance)
    assert log_e <= log_likelihood_ratio(*arguments, tolerance) + 1e-9
    assert log_e_value(*arguments, tolerance + 0.05) <= log_e + 1e-4


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
def test_mixture_over_a_common_rate_equals_savvi(events: int, others: int, log_odds: float) -> None:
    """Compare with `Multinomial(0.05, theta_0=[0.5, 0.5], k=2).odds` of savvi 0.3.1.

    savvi's prior of the rate is uniform, too, and its null rate is 0.5.
    """
    prior = Prior(1.0, 1.0, np.array([0.0]))
    both = events + others
    log_e = float(log_e_value(events, both, 0, 0, 0.0, prior))
    null = events * math.log(events / both) + others * math.log(others / both)
    assert log_e + null - both * math.log(0.5) == pytest.approx(log_odds, rel=1e-9)
