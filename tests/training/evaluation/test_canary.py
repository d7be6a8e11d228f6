"""Sequential test of the canary: error rates at any stopping time, and power for real effects."""

import math
import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.errors import refused
from training.errors import ConfigError
from training.evaluation.canary import CanaryConfig, Thumbs, Verdict, evaluate_thumbs

CONFIG = CanaryConfig(share=0.5, min_users=5)
TRIALS = 120


def trial(
    candidate: float, incumbent: float, thumbs: int, seed: int, config: CanaryConfig = CONFIG
) -> Verdict:
    """Simulate a canary that is evaluated after every eighth thumb until the first verdict."""
    rng = random.Random(seed)
    counts = {"candidate": [0, 0], "incumbent": [0, 0]}
    for number in range(1, thumbs + 1):
        arm, rate = (
            ("candidate", candidate) if rng.random() < config.share else ("incumbent", incumbent)
        )
        counts[arm][rng.random() >= rate] += 1
        if number % 8 == 0:
            reading = evaluate_thumbs(
                Thumbs(*counts["candidate"]), Thumbs(*counts["incumbent"]), config
            )
            if reading.verdict is not Verdict.WAIT:
                return reading.verdict
    return Verdict.WAIT


def verdicts(
    candidate: float, incumbent: float, thumbs: int, config: CanaryConfig = CONFIG
) -> Counter[Verdict]:
    return Counter(trial(candidate, incumbent, thumbs, seed, config) for seed in range(TRIALS))


@pytest.mark.parametrize(
    ("rate", "share"), [(0.2, 0.1), (0.5, 0.5), pytest.param(0.85, 0.3, marks=pytest.mark.long)]
)
def test_equal_versions_are_decided_at_most_with_alpha(rate: float, share: float) -> None:
    found = verdicts(rate, rate, 400, CanaryConfig(share=share, min_users=5))
    spread = 3 * math.sqrt(0.05 * 0.95 / TRIALS)
    assert found[Verdict.PROMOTE] / TRIALS <= 0.05 + spread
    assert found[Verdict.ROLL_BACK] / TRIALS <= 0.05 + spread


def test_candidate_at_the_margin_is_promoted_at_most_with_alpha() -> None:
    found = verdicts(0.45, 0.55, 400, CanaryConfig(share=0.5, min_users=5, margin=0.1))
    assert found[Verdict.PROMOTE] / TRIALS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / TRIALS)


def test_much_better_version_is_promoted_and_much_worse_rolled_back() -> None:
    better, worse = verdicts(0.8, 0.4, 240), verdicts(0.15, 0.5, 240)
    assert better[Verdict.PROMOTE] >= 0.95 * TRIALS
    assert worse[Verdict.ROLL_BACK] >= 0.95 * TRIALS
    assert better[Verdict.ROLL_BACK] == worse[Verdict.PROMOTE] == 0


def test_the_mean_e_value_is_at_most_one_without_an_effect() -> None:
    """Compute the mean exactly over all outcomes of 12 and 9 thumbs with equal rates."""
    for rate in (0.1, 0.5, 0.7):
        mean = 0.0
        for up in range(13):
            for other in range(10):
                chance = (
                    math.comb(12, up)
                    * math.comb(9, other)
                    * rate ** (up + other)
                    * (1 - rate) ** (21 - up - other)
                )
                mean += (
                    chance
                    * evaluate_thumbs(
                        Thumbs(up, 12 - up), Thumbs(other, 9 - other), CONFIG
                    ).e_better
                )
        assert mean <= 1


@settings(max_examples=60)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_swapping_the_arms_swaps_the_evidence(
    up: int, down: int, other_up: int, other_down: int
) -> None:
    one = evaluate_thumbs(Thumbs(up, down), Thumbs(other_up, other_down), CONFIG)
    two = evaluate_thumbs(Thumbs(other_up, other_down), Thumbs(up, down), CONFIG)
    assert one.e_better == pytest.approx(two.e_worse, rel=1e-6)
    assert min(one.e_better, one.e_worse) < 20


@settings(max_examples=60)
@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(0, 40),
    st.floats(0, 0.4),
)
def test_a_wider_margin_never_makes_promotion_harder(
    up: int, down: int, a: int, b: int, margin: float
) -> None:
    strict = evaluate_thumbs(Thumbs(up, down), Thumbs(a, b), CONFIG)
    lenient = evaluate_thumbs(Thumbs(up, down), Thumbs(a, b), CanaryConfig(margin=margin))
    assert lenient.e_better >= strict.e_better * (1 - 1e-6)


def test_few_thumbs_are_undecided() -> None:
    reading = evaluate_thumbs(Thumbs(19, 0), Thumbs(0, 500), CanaryConfig(min_users=20))
    assert reading.verdict is Verdict.WAIT
    assert re.findall(r"\d+", reading.reason) == ["19", "500", "20"]
    assert (
        evaluate_thumbs(Thumbs(20, 0), Thumbs(0, 500), CanaryConfig(min_users=20)).verdict
        is Verdict.PROMOTE
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("share", 0.0),
        ("share", 0.6),
        ("alpha", 0.5),
        ("margin", 0.5),
        ("min_users", 0),
        ("lease_seconds", 5.0),
        ("poll_seconds", 400.0),
    ],
)
def test_setting_out_of_range_is_rejected_by_name(field: str, value: float) -> None:
    with refused(ConfigError, field=field, reason="OUT_OF_RANGE"):
        CanaryConfig(**{field: value})
