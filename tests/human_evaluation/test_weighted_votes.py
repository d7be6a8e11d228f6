"""Ratings and fragility of votes with a weight each, as trust in accounts gives them.

The expected values are those of the search that sorted all votes and took Newton steps over all of
them (commit 864afc5b).
"""

from __future__ import annotations

import numpy as np
import pytest

from human_evaluation.battles import Battles
from human_evaluation.bradley_terry import fit
from human_evaluation.fragility import RIDGE, fragility
from human_evaluation.likelihood import Likelihood, follow, maximize, rows_of

VOTES = 4_000


def weighted_votes(seed: int) -> Battles:
    rng = np.random.default_rng(seed)
    models = 6
    strengths = rng.normal(0, 0.3, models)
    first = rng.integers(0, models, VOTES)
    second = (first + rng.integers(1, models, VOTES)) % models
    features = rng.standard_normal((VOTES, 3))
    logits = strengths[first] - strengths[second] + features @ [0.4, 0.1, 0.0]
    score = (rng.random(VOTES) < 1 / (1 + np.exp(-logits))).astype(float)
    score[rng.random(VOTES) < 0.2] = 0.5
    return Battles(
        models=tuple("abcdef"),
        first=first,
        second=second,
        score=score,
        weight=rng.uniform(0.05, 1, VOTES),
        voter=rng.integers(0, 300, VOTES),
        features=features,
    )


@pytest.mark.parametrize(
    ("seed", "style", "fragile", "rating", "error"),
    [
        (2, False, ("e", "f", 30, 33, 67017), 995.11082201, 8.23028686),
        (2, True, ("e", "f", 28, 30, 54503), 992.59718571, 8.16155680),
        (3, False, ("a", "c", 96, 116, 192240), 1080.10074154, 8.03302864),
        (3, True, ("a", "c", 90, 108, 196339), 1079.59169640, 7.87770461),
        (4, False, ("c", "d", 49, 55, 107050), 969.70964740, 8.15053807),
        (4, True, ("c", "d", 42, 47, 90249), 968.54207705, 8.21610156),
        (5, False, ("e", "d", 13, 13, 26369), 977.00713006, 7.84571556),
        (5, True, ("e", "d", 15, 15, 25677), 975.33584865, 7.84862164),
    ],
)
def test_results_equal_those_of_the_complete_search(
    seed: int, style: bool, fragile: tuple[object, ...], rating: float, error: float
) -> None:
    battles = weighted_votes(seed)
    ratings = fit(battles, style=style, cluster_voters=True)
    assert ratings.rating[0] == pytest.approx(rating, abs=1e-6)
    assert ratings.error[0] == pytest.approx(error, abs=1e-6)
    found = fragility(battles, style=style)
    assert found is not None
    places = int(found.votes.sum())
    assert (found.leader, found.new_leader, found.removed, found.first_order, places) == fragile


@pytest.mark.parametrize("removed", [1, 10, 100])
def test_followed_maximum_equals_that_of_newton_steps(removed: int) -> None:
    rows, _ = rows_of(weighted_votes(1), style=True)
    full = maximize(rows, ridge=RIDGE)
    hessian = Likelihood(rows, 0.0, RIDGE).hessian(full.chance)
    count = rows.count.copy()
    count[np.flatnonzero(rows.first == 1)[:removed]] = 0
    left = rows.with_count(count)
    expected = maximize(left, ridge=RIDGE)
    found = follow(left, full.parameters, hessian, ridge=RIDGE)
    assert found is not None
    np.testing.assert_allclose(found.parameters, expected.parameters, atol=1e-8)
    np.testing.assert_allclose(found.inverse, expected.inverse, atol=1e-8)
    np.testing.assert_allclose(found.chance, expected.chance, atol=1e-8)


def test_maximum_that_is_not_close_is_not_followed() -> None:
    rows, _ = rows_of(weighted_votes(1), style=True)
    full = maximize(rows, ridge=RIDGE)
    hessian = Likelihood(rows, 0.0, RIDGE).hessian(full.chance)
    # Without its victories, the model's strength goes down to the limit of the ridge.
    lost = ((rows.first == 1) & (rows.score > 0)) | ((rows.second == 1) & (rows.score < 1))
    left = rows.with_count(np.where(lost, 0.0, rows.count))
    assert follow(left, full.parameters, hessian, ridge=RIDGE) is None
