"""Sequential test of the canary: error rates at any stopping time, and power for real effects."""

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequential.figures import VersionFigures
from sequential.rates import SHARE_EFFECTS, log_e_value
from sequential.rows import ALPHA_SHARES
from tests.support.errors import refused
from training.errors import ConfigError
from training.evaluation.canary import CanaryConfig, Reading, Verdict, evaluate


def evaluate_thumbs(
    candidate: tuple[int, int], incumbent: tuple[int, int], config: CanaryConfig
) -> Reading:
    """Evaluate versions of which only users with thumbs up and with thumbs down are known."""
    new, old = (
        VersionFigures(user_shares={1.0: up, 0.0: down}) for up, down in (candidate, incumbent)
    )
    return evaluate(new, old, config)


CONFIG = CanaryConfig(share=0.5, min_users=5)
TRIALS = 120


def verdicts(
    candidate: float, incumbent: float, thumbs: int, config: CanaryConfig = CONFIG
) -> Counter[Verdict]:
    """Simulate canaries whose thumbs are evaluated after every eighth one until a verdict."""
    rng = np.random.default_rng(17)
    is_candidate = rng.random((TRIALS, thumbs)) < config.share
    is_up = rng.random((TRIALS, thumbs)) < np.where(is_candidate, candidate, incumbent)
    counts = [
        np.cumsum(seen, axis=1)[:, 7::8].astype(float)
        for seen in (is_candidate & is_up, is_candidate, ~is_candidate & is_up, ~is_candidate)
    ]
    is_permitted = np.minimum(counts[1], counts[3]) >= config.min_users
    tested = log_e_value(*counts, tolerance=-config.margin, effects=SHARE_EFFECTS)
    better = tested >= math.log(1 / config.alpha)
    limit = math.log(1 / (config.alpha * ALPHA_SHARES["thumbs"]))
    tested = log_e_value(counts[2], counts[3], counts[0], counts[1], effects=SHARE_EFFECTS)
    worse = tested >= limit
    found = []
    for ups, downs in zip(is_permitted & better, is_permitted & worse, strict=True):
        first_up, first_down = (
            int(seen.argmax()) if seen.any() else thumbs for seen in (ups, downs)
        )
        verdict = Verdict.PROMOTE if first_up < first_down else Verdict.ROLL_BACK
        found.append(verdict if first_up != first_down else Verdict.WAIT)
    return Counter(found)


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


@settings(max_examples=30)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_swapping_the_arms_swaps_the_evidence(
    up: int, down: int, other_up: int, other_down: int
) -> None:
    one = evaluate_thumbs((up, down), (other_up, other_down), CONFIG)
    two = evaluate_thumbs((other_up, other_down), (up, down), CONFIG)
    assert one.e_better == pytest.approx(two.e_worse, rel=1e-6)
    assert min(one.e_better, one.e_worse) < 20


@settings(max_examples=30)
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
    strict = evaluate_thumbs((up, down), (a, b), CONFIG)
    lenient = evaluate_thumbs((up, down), (a, b), CanaryConfig(margin=margin))
    assert lenient.e_better >= strict.e_better * (1 - 1e-6)


def test_few_thumbs_are_undecided() -> None:
    reading = evaluate_thumbs((19, 0), (0, 500), CanaryConfig(min_users=20))
    assert reading.verdict is Verdict.WAIT
    assert re.findall(r"\d+", reading.reason) == ["19", "500", "20"]
    assert evaluate_thumbs((20, 0), (0, 500), CanaryConfig(min_users=20)).verdict is Verdict.PROMOTE


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
        ("steps", (0.05, 0.02)),
        ("step_requests", 0),
        ("step_seconds", 0.0),
    ],
)
def test_setting_out_of_range_is_rejected_by_name(field: str, value: float) -> None:
    with refused(ConfigError, field=field, reason="OUT_OF_RANGE"):
        CanaryConfig(**{field: value})
