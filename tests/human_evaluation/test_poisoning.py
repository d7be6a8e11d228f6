"""The drill of benchmarks/poisoning.py and poisoning_feedback.py, as assertions."""

from collections import Counter

import numpy as np
import pytest

from benchmarks import poisoning, poisoning_feedback
from training.data.feedback.sets import SetsConfig, make_sets

pytestmark = pytest.mark.long

SEEDS = 3


def attacks(style: str) -> list[poisoning.Outcome]:
    outcomes = []
    for seed in range(SEEDS):
        arena = poisoning.make_arena(np.random.default_rng(seed), style, models=12)
        alone = arena.honest_only
        plain = poisoning.rate(alone, np.ones(len(alone.votes)), with_errors=True)
        outcomes.append(poisoning.attack(arena, poisoning.defended(alone), plain))
    return outcomes


@pytest.mark.parametrize("style", ["naive", "distributed"])
def test_crude_attacks_are_found_and_leave_the_rating_in_its_interval(style: str) -> None:
    outcomes = attacks(style)
    assert min(one.undefended for one in outcomes) > 2
    assert max(abs(one.defended) for one in outcomes) < 1
    found = np.array([one.found for one in outcomes]).sum(axis=0)
    assert found[0] / found[1] >= 0.95
    assert found[0] >= 0.9 * SEEDS * poisoning.HOSTILE


def test_adaptive_attack_is_seen_and_moves_the_rating_by_less_than_an_interval() -> None:
    """Its accounts vote honestly except on the target, about four times each: few are certain."""
    outcomes = attacks("adaptive")
    assert min(one.undefended for one in outcomes) > 2
    # Two half widths are the interval; the mean over arenas is below a half width.
    assert max(abs(one.defended) for one in outcomes) < 2
    assert abs(np.mean([one.defended for one in outcomes])) < 1
    assert all(one.campaigns for one in outcomes)
    found = np.array([one.found for one in outcomes]).sum(axis=0)
    assert found[0] / found[1] >= 0.9
    assert min(one.suspected for one in outcomes) >= 0.5 * poisoning.HOSTILE


def test_arena_without_an_attack_has_no_findings() -> None:
    for seed in range(SEEDS):
        arena = poisoning.make_arena(np.random.default_rng(seed), "naive", models=12).honest_only
        result = poisoning.defended(arena)
        assert result.findings == ()
        assert result.campaigns == ()


@pytest.mark.parametrize("kind", ["new", "burst", "cluster"])
def test_brigade_with_a_trace_does_not_promote_a_worse_version(kind: str) -> None:
    decisions: dict[str, Counter[str]] = {}
    for level in ("nothing", "trust and detection"):
        rng = np.random.default_rng(5)
        decisions[level] = Counter()
        for _ in range(40):
            accounts = poisoning_feedback.make_accounts(rng, kind)
            votes = poisoning_feedback.make_thumbs(rng, kind, 0.55, poisoning_feedback.CANDIDATE)
            weight = poisoning_feedback.user_weights(votes, accounts, level)
            decisions[level][poisoning_feedback.decide(rng, votes, weight)] += 1
    assert decisions["nothing"]["promoted"] >= 4
    assert decisions["trust and detection"]["promoted"] <= 1


def test_cap_of_a_group_bounds_poisoned_corrections_and_that_of_users_does_not() -> None:
    judgements = poisoning_feedback.make_judgements(np.random.default_rng(5), 3)
    config = SetsConfig(redact_personal_data=False)
    grouped = [poisoning_feedback.as_group(one) for one in judgements]
    shares = []
    for some in (judgements, grouped):
        lines = make_sets(some, config).sft
        poisoned = sum(poisoning_feedback.POISON in line["response"] for line in lines)
        shares.append(poisoned / len(lines))
    assert shares[0] > 2 * config.max_user_share * 0.9
    assert shares[1] <= config.max_user_share * 1.01
