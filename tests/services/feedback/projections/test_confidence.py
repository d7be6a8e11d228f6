"""Anytime-valid intervals: equal to the canary's test, shrinking, and with the promised error."""

import math
import random

import pytest

from services.feedback.projections.confidence import (
    ALPHA,
    Interval,
    interval,
    log_likelihood,
    log_mixture,
)
from training.evaluation import canary

COUNTS = [(0, 0), (1, 0), (0, 1), (7, 3), (40, 60), (195, 5), (150, 150)]


@pytest.mark.parametrize(("up", "down"), COUNTS)
def test_the_mixture_equals_the_canarys_for_one_version(up: int, down: int) -> None:
    of_grid = canary._log_mixture(canary.Thumbs(), canary.Thumbs(up, down))
    assert log_mixture(up, down) == pytest.approx(of_grid, abs=0.02)


@pytest.mark.parametrize(("up", "down"), COUNTS[1:])
def test_the_likelihood_equals_the_canarys(up: int, down: int) -> None:
    thumbs = canary.Thumbs(up, down)
    assert log_likelihood(up, down, 0.3) == pytest.approx(canary._log_likelihood(thumbs, 0.3))


@pytest.mark.parametrize(("up", "down"), COUNTS[1:])
def test_an_interval_contains_the_rate_and_ends_at_the_threshold(up: int, down: int) -> None:
    found = interval(up, down)
    assert 0 <= found.low <= up / (up + down) <= found.high <= 1
    for end in (found.low, found.high):
        if 0 < end < 1:
            assert math.exp(log_mixture(up, down) - log_likelihood(up, down, end)) == pytest.approx(
                1 / ALPHA
            )


def test_the_interval_is_full_without_thumbs_and_shrinks_with_more() -> None:
    assert interval(0, 0) == Interval(0, 1)
    assert interval(9, 0).high == 1
    assert interval(0, 9).low == 0
    widths = [
        interval(6 * n, 4 * n).high - interval(6 * n, 4 * n).low
        for n in (1, 10, 100, 10_000, 1_000_000)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.005


@pytest.mark.parametrize("rate", [0.5, 0.9])
def test_looking_after_every_thumb_keeps_the_error_rate(
    rate: float,
) -> None:
    chance, experiments, missed = random.Random(7), 400, 0
    for _ in range(experiments):
        up = down = 0
        for _ in range(300):
            said = chance.random() < rate
            up, down = up + said, down + (not said)
            if log_mixture(up, down) - log_likelihood(up, down, rate) >= math.log(1 / ALPHA):
                missed += 1
                break
    assert missed <= experiments * ALPHA
    # Without any error the interval would be too wide; here the error is near the promise from
    # below.
    assert missed >= 1


def test_a_fixed_sample_interval_would_exceed_the_error_rate() -> None:
    chance, experiments, missed = random.Random(7), 400, 0
    for _ in range(experiments):
        up = 0
        for number in range(1, 301):
            up += chance.random() < 0.5
            if number >= 10 and abs(up / number - 0.5) > 1.96 * math.sqrt(0.25 / number):
                missed += 1
                break
    assert missed > 3 * experiments * ALPHA
