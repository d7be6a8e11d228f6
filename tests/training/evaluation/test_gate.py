"""Gate: each check can fail alone, and its reason contains the figure."""

import math
import random
from dataclasses import replace

import pytest

from training.evaluation.gate import GateConfig, check_candidate, decide
from training.evaluation.health import check_reward_model
from training.figures import Comparison, Estimate, Probes, Samples, clustered_mean

GOOD = Comparison(
    win_rate=Estimate(0.7, 0.05, 400, 100),
    retention=Estimate(0.02, 0.01, 64, 64),
    knowledge=Probes(0.8, 0.6, Estimate(0.2, 0.05, 48, 48)),
    refusals=Probes(0.8, 0.8, Estimate(0.0, 0.05, 36, 36)),
    candidate=Samples(14.0, 0.99),
    incumbent=Samples(12.0, 0.99),
)
BAD = {
    "win rate": replace(GOOD, win_rate=Estimate(0.55, 0.05, 400, 100)),
    "perplexity on fixed texts": replace(GOOD, retention=Estimate(0.5, 0.05, 64, 64)),
    "knowledge": replace(GOOD, knowledge=Probes(0.3, 0.6, Estimate(-0.3, 0.05, 48, 48))),
    "refusals": replace(GOOD, refusals=Probes(0.5, 0.8, Estimate(-0.3, 0.05, 36, 36))),
    "length": replace(GOOD, candidate=Samples(50.0, 0.99)),
    "answers that end": replace(GOOD, candidate=Samples(14.0, 0.5)),
}


def test_better_and_safe_candidate_passes() -> None:
    decision = decide(check_candidate(GOOD, 4.0, GateConfig()))
    assert decision.passed
    assert not [check.name for check in decision.checks if check.name in decision.reason]


@pytest.mark.parametrize("name", sorted(BAD))
def test_each_failed_check_fails_the_gate(name: str) -> None:
    decision = decide(check_candidate(BAD[name], 4.0, GateConfig()))
    assert [check.name for check in decision.checks if not check.passed] == [name]
    assert decision.reason.startswith(f"{name}: ")


@pytest.mark.parametrize("nats", [0.0, 25.0])
def test_unchanged_or_drifted_policy_is_rejected(nats: float) -> None:
    decision = decide(check_candidate(GOOD, nats, GateConfig()))
    assert [check.name for check in decision.checks if not check.passed] == ["KL to the reference"]


def test_collapse_to_short_answers_is_rejected() -> None:
    short = replace(GOOD, candidate=Samples(2.0, 1.0))
    assert not decide(check_candidate(short, 4.0, GateConfig())).passed


def test_error_is_infinite_without_observations() -> None:
    nothing = clustered_mean([], [])
    assert nothing.error == math.inf
    assert not decide(check_reward_model("judge", nothing, None, GateConfig())).passed


def test_error_is_infinite_for_a_single_prompt() -> None:
    assert clustered_mean([1.0, 0.0], ["a", "a"]).error == math.inf


def test_agreement_of_few_prompts_has_a_positive_error() -> None:
    assert clustered_mean([1.0] * 5, list("abcde")).error > 0.1


def test_interval_covers_the_truth_for_different_prompts() -> None:
    """Simulate 100 experiments with different rates per prompt; 5 misses are expected."""
    rng = random.Random(1)
    missed = 0
    for _ in range(100):
        values, clusters = [], []
        for prompt in range(40):
            rate = rng.choice((0.1, 0.9))
            values += [float(rng.random() < rate) for _ in range(8)]
            clusters += [str(prompt)] * 8
        estimate = clustered_mean(values, clusters)
        missed += abs(estimate.value - 0.5) > 1.96 * estimate.error
    assert missed <= 12
    plain_error = math.sqrt(0.25 / 320)
    assert estimate.error > 1.8 * plain_error
