"""Ratings with trust and detection in turn, on a small arena."""

import numpy as np
import pytest

from human_evaluation.defence import Defence, defend
from human_evaluation.detection import Reason
from human_evaluation.detection_config import DetectionConfig
from human_evaluation.trust import DAY_SECONDS, TrustConfig
from human_evaluation.votes import NONE, Accounts, Array, Votes, share_of

ACCOUNTS, HOSTILE, SUBJECTS, TARGET = 300, 30, 6, 3
NOW = 90 * DAY_SECONDS


def fit(votes: Votes, weight: Array) -> Array:
    """Return ratings in log-odds by gradient steps with the bound of Böhning and Lindsay 1988."""
    between = np.zeros((SUBJECTS, SUBJECTS))
    np.add.at(between, (votes.first, votes.second), weight / 4)
    between += between.T
    inverse = np.linalg.pinv(np.diag(between.sum(axis=1)) - between, hermitian=True)
    ratings = np.zeros(SUBJECTS)
    for _ in range(15):
        rest = weight * (votes.score - share_of(ratings[votes.first] - ratings[votes.second]))
        gradient = np.bincount(votes.first, rest, SUBJECTS)
        ratings = ratings + inverse @ (gradient - np.bincount(votes.second, rest, SUBJECTS))
    return ratings


def arena(seed: int) -> tuple[Votes, Accounts]:
    """Return honest votes of all accounts, of which those below HOSTILE tip for the target."""
    rng = np.random.default_rng(seed)
    strengths = np.linspace(-0.6, 0.6, SUBJECTS)
    account = np.concatenate(
        [np.repeat(np.arange(HOSTILE), 25), rng.integers(HOSTILE, ACCOUNTS, 6_000)]
    )
    first = rng.integers(0, SUBJECTS, len(account))
    second = (first + rng.integers(1, SUBJECTS, len(account))) % SUBJECTS
    score = (rng.random(len(account)) < share_of(strengths[first] - strengths[second])).astype(
        float
    )
    hostile = account < HOSTILE
    score[hostile & (first == TARGET)] = 1
    score[hostile & (second == TARGET)] = 0
    created = rng.uniform(-300, 60, ACCOUNTS) * DAY_SECONDS
    created[:HOSTILE] = (70 + rng.uniform(0, 0.2, HOSTILE)) * DAY_SECONDS
    time = rng.uniform(80, 90, len(account)) * DAY_SECONDS
    none = np.full(len(account), NONE)
    return Votes(account, first, second, score, time, none), Accounts(
        created, np.full(ACCOUNTS, NONE)
    )


def defended(votes: Votes, accounts: Accounts, released: list[int]) -> Defence:
    is_released = np.zeros(ACCOUNTS, dtype=bool)
    is_released[released] = True
    return defend(
        votes,
        accounts,
        NOW,
        lambda weight: fit(votes, weight),
        TrustConfig(),
        DetectionConfig(),
        is_released,
    )


@pytest.fixture(scope="module")
def attacked() -> tuple[Votes, Accounts, Defence]:
    votes, accounts = arena(1)
    return votes, accounts, defended(votes, accounts, [])


def test_group_of_hostile_accounts_is_quarantined_and_the_rating_stays(
    attacked: tuple[Votes, Accounts, Defence],
) -> None:
    votes, _, result = attacked
    honest = fit(votes, (votes.account >= HOSTILE).astype(float))
    undefended = fit(votes, np.ones(len(votes)))
    quarantined = result.quarantined(ACCOUNTS)
    assert quarantined[:HOSTILE].mean() >= 0.9
    assert quarantined[HOSTILE:].sum() <= 2
    assert (result.weight[quarantined[votes.account]] == 0).all()
    assert {finding.reason for finding in result.findings} == {Reason.CAMPAIGN}
    assert {finding.group for finding in result.findings} == {"burst 0"}
    shift = result.ratings[TARGET] - honest[TARGET]
    assert abs(shift) < 0.3 * (undefended[TARGET] - honest[TARGET])


def test_released_accounts_are_not_quarantined_again() -> None:
    votes, accounts = arena(2)
    result = defended(votes, accounts, [0, 1])
    quarantined = result.quarantined(ACCOUNTS)
    assert not quarantined[:2].any()
    assert quarantined[2:HOSTILE].mean() >= 0.9
    assert (result.weight[votes.account <= 1] > 0).all()


def test_order_of_votes_does_not_matter(attacked: tuple[Votes, Accounts, Defence]) -> None:
    votes, accounts, result = attacked
    order = np.random.default_rng(0).permutation(len(votes))
    columns = (
        getattr(votes, name)[order]
        for name in ("account", "first", "second", "score", "time", "item")
    )
    moved = Votes(*columns)
    other = defended(moved, accounts, [])
    assert other.ratings == pytest.approx(result.ratings, abs=1e-9)
    assert (other.quarantined(ACCOUNTS) == result.quarantined(ACCOUNTS)).all()
