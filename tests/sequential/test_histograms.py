"""Tests of histograms: validity, power, tolerance and bounds."""

import numpy as np
import pytest

from sequential.figures import RATIO
from sequential.histograms import (
    BINS,
    counts_by_bin,
    log_bound_distribution,
    log_e_distribution,
    log_e_quantile,
    quantile,
)


def sample(median: float, number: int, seed: int, sigma: float = 0.5) -> np.ndarray:
    """Return the histogram of log-normal values."""
    values = np.random.default_rng(seed).lognormal(np.log(median), sigma, number)
    bins = np.floor(np.log(values) / np.log(RATIO)).astype(int)
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS).astype(float)


def test_quantiles_of_a_histogram_are_those_of_its_values() -> None:
    counts = sample(300, 20_000, seed=1)
    assert quantile(counts, 0.5) == pytest.approx(300, rel=0.03)
    assert quantile(counts, 0.95) == pytest.approx(300 * np.exp(0.5 * 1.645), rel=0.05)
    assert quantile(np.zeros(BINS), 0.5) == 0


def test_values_above_the_last_bin_count_there() -> None:
    counts = counts_by_bin({0: 2, BINS + 50: 3})
    assert (counts[0], counts[-1], counts.sum()) == (2, 3, 5)


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_higher_quantile_is_found_and_an_equal_or_lower_one_is_not(share: float) -> None:
    slower, faster = sample(400, 2_000, seed=2), sample(300, 8_000, seed=3)
    assert log_e_quantile(slower, faster, share) > 10
    assert log_e_quantile(sample(300, 2_000, seed=4), faster, share) < 1
    assert log_e_quantile(faster, slower, share) < 1


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_quantile_within_the_permitted_difference_is_not_found(share: float) -> None:
    slower, faster = sample(300 * 1.18, 20_000, seed=2), sample(300, 20_000, seed=3)
    assert log_e_quantile(slower, faster, share) > 10
    assert log_e_quantile(slower, faster, share, shift=4) < 1


def test_distributions_differ_only_beyond_the_permitted_ratio() -> None:
    longer, usual = sample(400, 4_000, seed=5), sample(200, 4_000, seed=6)
    assert log_e_distribution(longer, usual, shift=8) > 10
    assert log_e_distribution(longer, usual, shift=16) < 1
    assert log_e_distribution(usual, longer) < 1


def test_a_longer_tail_is_found_although_the_median_is_equal() -> None:
    usual = sample(300, 5_000, seed=7)
    slow = usual.copy()
    slow[150:170] += 20  # 400 values of 1,500 to 4,000
    assert log_e_quantile(slow, usual, 0.5, shift=2) < 1
    assert log_e_distribution(slow, usual) > 10


def test_bound_of_the_distribution_test_holds_for_arrays() -> None:
    first = np.stack([sample(300 + 20 * k, 500, seed=k) for k in range(5)])
    second = np.stack([sample(300, 1_000, seed=50 + k) for k in range(5)])
    together = log_e_distribution(first, second)
    assert (together <= log_bound_distribution(first, second) + 1e-9).all()
    single = [float(log_e_distribution(a, b)) for a, b in zip(first, second, strict=True)]
    assert together == pytest.approx(single, rel=1e-9)
