"""Mixture test of users' shares: validity for any distribution, and the weight of one user."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequential.figures import Approval, VersionFigures, shares_of
from sequential.rates import (
    SHARE_EFFECTS,
    Array,
    log_e_of_terms,
    log_e_shares,
    log_e_value,
    mixture_shifts,
    share_terms,
)

SHARES = np.array([0.0, 0.5, 1.0])
# Chances of the shares 0, 0.5 and 1 in both arms, and the tolerance. The means are on the border of
# the null hypothesis or within it; the variances differ.
NULLS = [
    ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5), 0.0),
    ((0.0, 0.9, 0.1), (0.45, 0.0, 0.55), 0.0),
    ((0.45, 0.0, 0.55), (0.0, 0.9, 0.1), 0.0),
    ((0.0, 0.04, 0.96), (0.0, 0.04, 0.96), 0.0),
    ((0.0, 1.0, 0.0), (0.5, 0.0, 0.5), 0.0),
    ((0.5, 0.4, 0.1), (0.3, 0.4, 0.3), 0.0),
    ((0.3, 0.4, 0.3), (0.1, 0.4, 0.5), -0.2),
]
# The same with weights of users with these shares: the weighted means are on the border or within.
UNEQUAL = (1.0, 0.5, 1.0)
WEIGHTED_NULLS = [
    ((0.2, 0.4, 0.4), (0.375, 0.0, 0.625), 0.0),
    ((0.375, 0.0, 0.625), (0.2, 0.4, 0.4), 0.0),
    ((0.0, 0.9, 0.1), (0.0, 0.9, 0.1), 0.0),
    ((0.3, 0.6, 0.1), (0.2, 0.4, 0.4), 0.0),
]
CASES = [(null, (1.0, 1.0, 1.0)) for null in NULLS] + [(null, UNEQUAL) for null in WEIGHTED_NULLS]
SHARE = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
USERS = st.dictionaries(SHARE, st.integers(1, 60), max_size=6)


def numbers(users: int) -> Array:
    """Return all numbers of users with the shares 0, 0.5 and 1, [outcomes, 3]."""
    rows = [
        (users - half - full, half, full)
        for half in range(users + 1)
        for full in range(users + 1 - half)
    ]
    return np.array(rows, dtype=np.float64)


def evidence(
    users: int,
    other_users: int,
    tolerance: float,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Array:
    """Return the e-values of all outcomes, [outcomes, other outcomes].

    Args:
        weights: of users with the shares 0, 0.5 and 1.
    """
    up, down = mixture_shifts(SHARE_EFFECTS)
    first, second = (numbers(count) * weights for count in (users, other_users))
    log_e = log_e_of_terms(
        (first @ share_terms(SHARES, up))[:, None],
        first.sum(axis=1)[:, None],
        second @ share_terms(SHARES, -down),
        second.sum(axis=1),
        tolerance,
        SHARE_EFFECTS,
    )
    return np.exp(log_e)


def chances_of(users: int, chances: tuple[float, ...]) -> Array:
    """Return the multinomial probability of each outcome, [outcomes]."""
    return np.array(
        [
            math.factorial(users)
            * math.prod(
                c ** int(k) / math.factorial(int(k)) for c, k in zip(chances, row, strict=True)
            )
            for row in numbers(users)
        ]
    )


@pytest.mark.parametrize(("null", "weights"), CASES)
@pytest.mark.parametrize(("users", "other_users"), [(9, 7), (3, 16), (14, 4)])
def test_mean_e_value_is_at_most_one(
    null: tuple[tuple[float, ...], tuple[float, ...], float],
    weights: tuple[float, ...],
    users: int,
    other_users: int,
) -> None:
    """Compute the mean exactly over all outcomes, also where the weight depends on the user."""
    chances, other_chances, tolerance = null
    likely = chances_of(users, chances)[:, None] * chances_of(other_users, other_chances)
    assert likely.sum() == pytest.approx(1.0)
    mean = float((likely * evidence(users, other_users, tolerance, weights)).sum())
    assert 0 < mean <= 1 + 1e-5


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([0, 1] * 7, id="equal shares"),
        pytest.param([1] * 5 + [1, 1, 0] * 2 + [0, 1] * 2, id="rising share"),
    ],
)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), UNEQUAL], ids=["equal", "unequal"])
def test_no_rule_for_stopping_raises_the_mean_above_one(
    order: list[int], weights: tuple[float, ...]
) -> None:
    """Compute the best rule backwards: stop where the e-value is above the mean of going on."""
    steps = [(order[:k].count(0), order[:k].count(1)) for k in range(len(order) + 1)]
    e_values = [evidence(users, other_users, 0.0, weights) for users, other_users in steps]
    indexes = [
        {tuple(row): k for k, row in enumerate(numbers(users).tolist())}
        for users in range(len(order) + 1)
    ]

    def after(users: int, share: int) -> list[int]:
        """Return the outcome that follows each outcome when one more user has this share."""
        rows = numbers(users)
        rows[:, share] += 1
        return [indexes[users + 1][tuple(row)] for row in rows.tolist()]

    for (chances, other_chances, tolerance), weighted in CASES:
        if tolerance or weighted != weights:
            continue
        value = e_values[-1]
        for k in reversed(range(len(order))):
            arm, users = order[k], steps[k][order[k]]
            going_on = sum(
                chance * value.take(after(users, share), arm)
                for share, chance in enumerate((chances, other_chances)[arm])
            )
            value = np.maximum(e_values[k], going_on)
        assert float(value[0, 0]) <= 1 + 1e-5


@settings(max_examples=50)
@given(*[st.integers(0, 200)] * 4, st.sampled_from([0.0, -0.1]))
def test_users_with_one_thumb_give_the_evidence_of_events(
    up: int, down: int, other_up: int, other_down: int, tolerance: float
) -> None:
    found = log_e_shares({1.0: up, 0.0: down}, {1.0: other_up, 0.0: other_down}, tolerance)
    events = log_e_value(
        up, up + down, other_up, other_up + other_down, tolerance, effects=SHARE_EFFECTS
    )
    assert found == pytest.approx(float(events), abs=1e-6)


@settings(max_examples=50)
@given(USERS, USERS, SHARE, SHARE)
def test_a_users_evidence_rises_with_the_share_and_is_at_most_that_of_one_thumb(
    users: dict[float, int], others: dict[float, int], low: float, high: float
) -> None:
    """Any number of thumbs of one user has a share from 0 to 1, the shares of a single thumb."""
    rising = [0.0, *sorted((low, high)), 1.0]

    def with_user(arm: dict[float, int], share: float) -> dict[float, int]:
        return {**arm, share: arm.get(share, 0) + 1}

    candidate = [log_e_shares(with_user(users, share), others) for share in rising]
    incumbent = [log_e_shares(users, with_user(others, share)) for share in rising]
    assert np.diff(candidate).min() >= -1e-6
    assert np.diff(incumbent).max() <= 1e-6


@pytest.mark.parametrize("users", [1, 20, 1_000])
def test_one_user_against_unanimous_others_decides_nothing(users: int) -> None:
    """The evidence against equal means is below 20, at which a candidate is promoted."""
    for liked, other in ((1.0, 0.0), (0.0, 1.0)):
        with_user = {other: users - 1, liked: 1}
        assert log_e_shares(with_user, {other: 1_000_000}) < math.log(17)
        assert log_e_shares({other: 1_000_000}, with_user) < math.log(17)


def test_shares_find_what_majorities_hide() -> None:
    """Users with 10 thumbs each, of which 8 or 9 are up."""
    limit = math.log(20)
    assert log_e_shares({0.9: 60}, {0.8: 60}) > limit
    assert log_e_shares({1.0: 60}, {1.0: 60}) < limit


def test_share_of_a_user_is_that_of_the_thumbs_up() -> None:
    rows = [(15, 0, 2), (1, 0, 3), (2, 2, 1), (1, 2, 4), (0, 0, 9), (0, 7, 1)]
    shares = shares_of((*row, 1.0) for row in rows)
    assert shares == {1.0: 5, 0.5: 1, 1 / 3: 4, 0.0: 1}
    figures = VersionFigures(user_shares=shares)
    assert figures.approval.users == 11
    assert figures.approval.share == pytest.approx((5 + 0.5 + 4 / 3) / 11)
    assert VersionFigures().approval == Approval(0, 0.0)


def test_users_count_by_their_weight() -> None:
    shares = shares_of([(15, 0, 2, 1.0), (1, 0, 5, 0.1), (0, 1, 4, 0.5), (3, 1, 200, 0.0)])
    assert shares == {1.0: 2.5, 0.0: 2.0}
    approval = VersionFigures(user_shares=shares).approval
    assert approval == Approval(4.5, pytest.approx(2.5 / 4.5))


@settings(max_examples=50)
@given(USERS, USERS, SHARE, st.floats(0, 1))
def test_a_users_evidence_is_limited_by_the_weight(
    users: dict[float, int], others: dict[float, int], share: float, weight: float
) -> None:
    arm = {**users, share: users.get(share, 0) + weight}
    change = log_e_shares(arm, others) - log_e_shares(users, others)
    assert abs(change) <= weight * SHARE_EFFECTS.max() + 1e-6
