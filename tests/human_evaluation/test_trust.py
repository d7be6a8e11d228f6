"""Weights of votes by age, number, rate and agreement, and the caps of influence."""

import numpy as np
import pytest

from human_evaluation.trust import (
    DAY_SECONDS,
    TrustConfig,
    age_trust,
    agreement_trust,
    cap_shares,
    count_trust,
    odds_without_own,
    rate_weights,
    weigh,
)
from human_evaluation.votes import Accounts, Array, Index, Votes, share_of

CONFIG = TrustConfig()
STRENGTHS = np.array([-0.9, -0.3, 0.0, 0.4, 0.8])


def battles_of(rng: np.random.Generator, account: Index, follows: Array | float = 1.0) -> Votes:
    """Return votes whose log-odds are those of the strengths times `follows`, without ties."""
    count = len(account)
    first = rng.integers(0, len(STRENGTHS), count)
    second = (first + rng.integers(1, len(STRENGTHS), count)) % len(STRENGTHS)
    chance = share_of(follows * (STRENGTHS[first] - STRENGTHS[second]))
    score = (rng.random(count) < chance).astype(float)
    return Votes(account, first, second, score, np.arange(count) * 60.0, np.full(count, -1))


def ratings_of(votes: Votes, weight: Array) -> Array:
    """Fit a Bradley-Terry model by Newton's method on a dense design."""
    design = np.zeros((len(votes), len(STRENGTHS)))
    design[np.arange(len(votes)), votes.first] = 1
    design[np.arange(len(votes)), votes.second] = -1
    ratings = np.zeros(len(STRENGTHS))
    for _ in range(10):
        chance = share_of(design @ ratings)
        hessian = (design.T * (weight * chance * (1 - chance))) @ design
        gradient = design.T @ (weight * (votes.score - chance))
        ratings = ratings + np.linalg.pinv(hessian, hermitian=True) @ gradient
    return ratings


def test_age_rises_linearly_to_full_weight() -> None:
    days = np.array([0.0, 3.5, 7.0, 400.0])
    now = 500 * DAY_SECONDS
    assert age_trust(now - days * DAY_SECONDS, now, CONFIG) == pytest.approx([0, 0.5, 1, 1])
    assert age_trust(np.array([now + 60]), now, CONFIG) == [0]  # clocks differ
    assert age_trust(np.array([now]), now, TrustConfig(age_days=0)) == [1]


def test_few_votes_have_a_smaller_weight() -> None:
    weights = count_trust(np.array([1, 4, 10, 500]), CONFIG)
    assert weights == pytest.approx([0.25, 0.5, 1, 1])
    assert count_trust(np.array([1]), TrustConfig(full_votes=1)) == [1]


def test_votes_above_the_daily_limit_share_its_weight() -> None:
    account = np.array([0] * 200 + [1] * 50)
    time = np.full(250, 10.0)
    weights = rate_weights(account, time, CONFIG)
    assert np.bincount(account, weights) == pytest.approx([50, 50])
    spread = rate_weights(np.zeros(200, dtype=int), np.arange(200) * DAY_SECONDS, CONFIG)
    assert spread == pytest.approx(np.ones(200))


def test_random_and_contrary_accounts_lose_their_weight() -> None:
    rng = np.random.default_rng(1)
    account = np.repeat(np.arange(60), 200)
    follows = np.where(account == 0, 0.0, np.where(account == 1, -1.0, 1.0))
    votes = battles_of(rng, account, follows)
    ones = np.ones(len(votes))
    odds = odds_without_own(votes, 60, ratings_of(votes, ones), ones)
    trust = agreement_trust(votes, 60, odds, CONFIG)
    assert trust[0] < 0.4
    assert trust[1] == 0
    assert trust[2:].mean() > 0.85


def test_few_votes_decide_little_on_agreement() -> None:
    votes = battles_of(np.random.default_rng(2), np.repeat(np.arange(2_000), 3))
    odds = STRENGTHS[votes.first] - STRENGTHS[votes.second]
    trust = agreement_trust(votes, 2_000, odds, CONFIG)
    assert trust.mean() > 0.85
    assert trust.min() > 0


def test_ratings_without_an_account_are_close_to_a_fit_without_it() -> None:
    rng = np.random.default_rng(3)
    votes = battles_of(rng, np.repeat(np.arange(40), 50))
    ones = np.ones(len(votes))
    odds = odds_without_own(votes, 40, ratings_of(votes, ones), ones)
    others = ratings_of(votes, (votes.account != 7).astype(float))
    own = votes.account == 7
    exact = others[votes.first[own]] - others[votes.second[own]]
    full = ratings_of(votes, ones)
    with_own = full[votes.first[own]] - full[votes.second[own]]
    assert np.abs(odds[own] - exact).max() < 0.1 * np.abs(with_own - exact).max()


@pytest.mark.parametrize("share", [0.005, 0.02])
def test_no_group_exceeds_its_share(share: float) -> None:
    rng = np.random.default_rng(4)
    group = rng.choice(2_000, 20_000, p=(odds := rng.pareto(0.7, 2_000)) / odds.sum())
    weight = rng.random(20_000)
    capped = cap_shares(weight, group, share)
    totals, before = np.bincount(group, capped), np.bincount(group, weight)
    assert before.max() / before.sum() > share
    assert totals.max() / totals.sum() == pytest.approx(share)
    small = before < 0.99 * totals.max()
    assert small.sum() > 300
    assert totals[small] == pytest.approx(before[small])


def test_cap_keeps_ratios_within_a_group_and_votes_without_a_group() -> None:
    weight = np.array([3.0, 1.0, 1.0, 1.0, 4.0])
    group = np.array([0, 0, -1, -1, -1])
    capped = cap_shares(weight, group, 0.1)
    assert capped[2:] == pytest.approx(weight[2:])
    assert capped[0] == pytest.approx(3 * capped[1])
    assert capped[:2].sum() / capped.sum() == pytest.approx(0.1)


def test_with_few_groups_the_share_is_twice_the_equal_one() -> None:
    capped = cap_shares(np.array([100.0, 1.0, 1.0, 1.0]), np.arange(4), 0.005)
    assert capped == pytest.approx([3, 1, 1, 1])


@pytest.mark.parametrize("groups", [np.zeros(3, dtype=int), np.full(3, -1)])
def test_a_single_group_and_no_group_are_not_capped(groups: Index) -> None:
    weight = np.array([1.0, 2.0, 3.0])
    assert cap_shares(weight, groups, 0.01) == pytest.approx(weight)


def test_weights_respect_both_caps_and_quarantine() -> None:
    rng = np.random.default_rng(5)
    account = np.concatenate([np.full(3_000, 0), rng.integers(1, 1_000, 12_000)])
    votes = battles_of(rng, account)
    cluster = np.full(1_000, -1)
    cluster[1:60] = 3
    accounts = Accounts(np.full(1_000, -1e9), cluster)
    quarantined = np.zeros(1_000, dtype=bool)
    quarantined[61] = True
    config = TrustConfig(votes_per_day=100_000)
    weight = weigh(votes, accounts, 0.0, config, quarantined=quarantined)
    totals = np.bincount(account, weight, 1_000) / weight.sum()
    assert totals.max() <= 0.005 * 1.001
    assert totals[1:60].sum() <= 0.02 * 1.001
    assert totals[61] == 0
    assert totals[100] > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("age_days", -1), ("first_vote", 1.5), ("account_share", 0), ("votes_per_day", 0)],
)
def test_settings_outside_their_limits_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        TrustConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("account", [-1, 0]),
        ("second", [-2, 1]),
        ("second", [0, 1]),
        ("score", [1.5, 0]),
        ("score", [float("nan"), 0]),
        ("time", [float("inf"), 0]),
        ("item", [1]),
    ],
)
def test_columns_outside_their_limits_are_refused(name: str, value: list[float]) -> None:
    columns = {
        "account": [0, 1],
        "first": [0, 2],
        "second": [1, 1],
        "score": [1.0, 0.5],
        "time": [1.0, 2.0],
        "item": [-1, -1],
    }
    with pytest.raises(ValueError, match=f"^{name}: "):
        Votes(**{key: np.array(column) for key, column in {**columns, name: value}.items()})
