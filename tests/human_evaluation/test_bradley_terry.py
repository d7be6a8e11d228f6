"""Ratings of small and simulated sets of votes."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from human_evaluation.battles import Battles
from human_evaluation.bradley_terry import ELO_SCALE, Ratings, fit, t_quantile

STRENGTHS = np.linspace(-0.6, 0.6, 8)
Simulate = Callable[..., Battles]


def votes(models: str, results: list[tuple[str, str, float, int]]) -> Battles:
    """Return repeated votes from rows of first model, second model, score and number."""
    number = np.array([count for *_, count in results])
    return Battles(
        models=tuple(models),
        first=np.repeat([models.index(first) for first, *_ in results], number),
        second=np.repeat([models.index(second) for _, second, *_ in results], number),
        score=np.repeat([score for _, _, score, _ in results], number),
    )


def test_two_models_differ_by_their_odds() -> None:
    ratings = fit(votes("ab", [("a", "b", 1, 30), ("b", "a", 1, 10)]))
    assert ratings.rating.mean() == pytest.approx(1000)
    assert ratings.rating[0] - ratings.rating[1] == pytest.approx(400 * math.log10(3))
    assert ratings.votes.tolist() == [40, 40]
    # The binomial error of the log-odds: 1 / (n p (1 - p)).
    error = ELO_SCALE / math.sqrt(40 * 0.75 * 0.25)
    assert ratings.difference_error[0, 1] == pytest.approx(error)
    assert ratings.error[0] == pytest.approx(error / 2)
    assert ratings.high[0] - ratings.rating[0] == pytest.approx(1.959964 * error / 2)
    assert ratings.dispersion == pytest.approx(1)


def test_anchor_has_a_fixed_rating_without_error() -> None:
    battles = votes(
        "abc", [("a", "b", 1, 9), ("b", "c", 0, 5), ("c", "a", 0.5, 4), ("b", "a", 1, 2)]
    )
    battles = replace(battles, weight=np.where(battles.first == 1, 2.0, 1.0))
    free, anchored = fit(replace_tie(battles)), fit(replace_tie(battles), anchor="b", centre=500)
    assert anchored.rating[1] == 500
    assert anchored.error[1] == pytest.approx(0, abs=1e-9)
    assert np.ptp(anchored.rating - free.rating) == pytest.approx(0, abs=1e-9)
    assert anchored.difference_error == pytest.approx(free.difference_error, abs=1e-6)


def replace_tie(battles: Battles) -> Battles:
    """Return the votes and a tie of all pairs, so that every model is ranked."""
    both = np.array([0, 1, 2]), np.array([1, 2, 0])
    return Battles(
        models=battles.models,
        first=np.concatenate((battles.first, both[0])),
        second=np.concatenate((battles.second, both[1])),
        score=np.concatenate((battles.score, [0.5] * 3)),
        weight=np.concatenate((battles.weight, [1.0] * 3)),
    )


def test_order_of_votes_changes_no_bit(simulate: Simulate) -> None:
    rng = np.random.default_rng(0)
    voter, style = rng.integers(0, 300, 2_000), np.array([0.3, 0.0])
    battles = simulate(STRENGTHS, 2_000, rng, voter=voter, style=style)
    mixed = battles.select(rng.permutation(2_000))
    one, other = fit(battles), fit(mixed)
    assert (one.rating == other.rating).all()
    assert (one.covariance == other.covariance).all()
    for styled in (False, True):
        one, other = (fit(b, style=styled, cluster_voters=True) for b in (battles, mixed))
        assert one.rating == pytest.approx(other.rating, rel=1e-9)
        assert one.error == pytest.approx(other.error, rel=1e-9)


def test_swapped_answers_change_nothing(simulate: Simulate) -> None:
    battles = simulate(STRENGTHS, 1_000, np.random.default_rng(1), style=np.array([0.5, 0.0]))
    swapped = replace(
        battles,
        first=battles.second,
        second=battles.first,
        score=1 - battles.score,
        features=-battles.features,
    )
    for style in (False, True):
        one, other = fit(battles, style=style), fit(swapped, style=style)
        # Standardized features have the mean 0 in one direction only: 1e-9 is out of reach.
        assert one.rating == pytest.approx(other.rating, abs=1e-6)
        assert one.error == pytest.approx(other.error, rel=1e-6)


def test_weights_count_as_repeated_votes_in_ratings_not_in_errors(simulate: Simulate) -> None:
    battles = simulate(STRENGTHS, 1_000, np.random.default_rng(2))
    doubled = replace(battles, weight=np.full(1_000, 2.0))
    ignored = battles.select(np.tile(np.arange(1_000), 2))
    ignored = replace(ignored, weight=np.repeat([1.0, 0.0], 1_000))
    for other in (doubled, ignored):
        assert fit(other).rating == pytest.approx(fit(battles).rating, abs=1e-9)
        assert fit(other).error == pytest.approx(fit(battles).error, rel=1e-9)
        assert (fit(other).votes == fit(battles).votes).all()


def test_generic_optimizer_finds_the_same_maximum(simulate: Simulate) -> None:
    battles = simulate(STRENGTHS, 600, np.random.default_rng(3), style=np.array([0.4]))
    feature = battles.features[:, 0]
    feature = (feature - feature.mean()) / feature.std()

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[battles.first] - parameters[battles.second] + parameters[8] * feature
        return float((np.logaddexp(0, logits) - battles.score * logits).sum())

    found = scipy.optimize.minimize(loss, np.zeros(9), tol=1e-12).x
    ratings = fit(battles, style=True)
    expected = 1000 + ELO_SCALE * (found[:8] - found[:8].mean())
    assert ratings.rating == pytest.approx(expected, abs=0.05)
    assert ratings.coefficient == pytest.approx(found[8:], abs=1e-4)


def test_models_without_victories_or_defeats_are_unranked() -> None:
    battles = votes(
        "abcdef",
        [
            *(("a", "b", 1, 3), ("b", "a", 1, 1), ("a", "b", 0.5, 1)),
            *(("c", "a", 1, 5), ("a", "d", 1, 5)),  # c has no defeat, d no victory
            *(("e", "f", 1, 1), ("f", "e", 1, 1)),  # a smaller group apart
        ],
    )
    ratings = fit(battles)
    assert ratings.ranked.tolist() == [True, True, False, False, False, False]
    assert ratings.rank.tolist() == [1, 1, 0, 0, 0, 0]
    assert np.isnan(ratings.rating[2:]).all()
    assert ratings.component.tolist()[:2] == [0, 0]
    assert ratings.component[4] == ratings.component[5] != 0
    assert len(set(ratings.component.tolist())) == 4
    assert ratings.votes.tolist() == [15, 5, 5, 5, 2, 2]
    # Votes with unranked models do not matter.
    assert ratings.rating[:2] == pytest.approx(fit(battles.select(np.arange(5))).rating[:2])
    with pytest.raises(ValueError, match="anchor"):
        fit(battles, anchor="c")


def test_no_votes_rank_no_model() -> None:
    none = votes("ab", [("a", "b", 1, 1)]).select(np.zeros(1, bool))
    for battles in (none, replace(none, models=())):
        ratings = fit(battles, cluster_voters=True)
        assert not ratings.ranked.any()
        assert len(ratings.order) == 0


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"style": True}, "style"),
        ({"anchor": "z"}, "anchor"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}:"):
        fit(votes("ab", [("a", "b", 0.5, 4)]), **arguments)  # type: ignore[arg-type]


def test_style_effect_is_removed() -> None:
    """Two equal models, one of which writes longer answers, as voters like."""
    rng = np.random.default_rng(4)
    longer = rng.normal(1.0, 1.0, 20_000)
    score = (rng.random(20_000) < 1 / (1 + np.exp(-longer))).astype(float)
    battles = Battles(
        models=("long", "short"),
        first=np.zeros(20_000, int),
        second=np.ones(20_000, int),
        score=score,
        features=longer[:, None],
    )
    # Swapped battles, so that the side of an answer does not tell its model.
    turned = rng.random(20_000) < 0.5
    battles = replace(
        battles,
        first=turned.astype(int),
        second=1 - turned,
        score=np.where(turned, 1 - score, score),
        features=np.where(turned, -longer, longer)[:, None],
    )
    plain, styled = fit(battles), fit(battles, style=True)
    assert plain.rating[0] - plain.rating[1] > 100
    assert abs(styled.rating[0] - styled.rating[1]) < 4 * styled.difference_error[0, 1]
    deviation = battles.features.std()
    assert abs(styled.coefficient[0] / deviation - 1) < 4 * styled.coefficient_error[0]


def test_constant_and_equal_features_do_not_break_a_fit(simulate: Simulate) -> None:
    battles = simulate(STRENGTHS, 500, np.random.default_rng(5), style=np.array([0.3]))
    once = battles.features
    twice = replace(battles, features=np.hstack((once, once, np.ones((500, 1)))))
    assert fit(twice, style=True).rating == pytest.approx(fit(battles, style=True).rating, abs=1e-3)


def dense_errors(battles: Battles, ratings: Ratings) -> np.ndarray:
    """Return the clustered sandwich without correction, from design vectors of all votes."""
    count = len(battles.models)
    design = np.eye(count)[battles.first] - np.eye(count)[battles.second]
    chance = 1 / (1 + np.exp(-design @ ratings.rating / ELO_SCALE))
    scores = design * (battles.weight * (battles.score - chance))[:, None]
    hessian = design.T @ (design * (battles.weight * chance * (1 - chance))[:, None])
    voter = np.where(battles.voter < 0, 10_000 + np.arange(len(battles)), battles.voter)
    sums = np.array([scores[voter == one].sum(axis=0) for one in np.unique(voter)])
    bread = np.linalg.pinv(hessian)
    return ELO_SCALE * np.sqrt(np.diag(bread @ sums.T @ sums @ bread))


def test_errors_by_voter_equal_sums_over_design_vectors(simulate: Simulate) -> None:
    rng = np.random.default_rng(6)
    battles = simulate(STRENGTHS, 400, rng, voter=rng.integers(-1, 60, 400))
    battles = replace(battles, weight=rng.choice([0.5, 1.0, 3.0], 400))
    ratings = fit(battles, cluster_voters=True)
    quotient = ratings.error / dense_errors(battles, ratings)
    # The correction for few voters is one factor for all models.
    assert np.ptp(quotient) < 1e-6
    assert 1 < quotient[0] < 1.1
    assert 20 < ratings.degrees < 150


def test_voters_with_a_single_vote_need_no_clusters(simulate: Simulate) -> None:
    battles = simulate(STRENGTHS, 4_000, np.random.default_rng(7))
    for voter in (np.full(4_000, -1), np.arange(4_000)):
        clustered = fit(replace(battles, voter=voter), cluster_voters=True)
        assert clustered.error == pytest.approx(fit(battles).error, rel=1e-3)
        assert clustered.degrees == pytest.approx(4_000)


def test_dependent_votes_of_few_voters_widen_intervals(simulate: Simulate) -> None:
    rng = np.random.default_rng(8)
    effects = rng.normal(0, 0.5, (5, 8))
    battles = simulate(STRENGTHS, 5_000, rng, effects=effects, voter=rng.integers(0, 5, 5_000))
    plain, clustered = fit(battles), fit(battles, cluster_voters=True)
    assert clustered.degrees == pytest.approx(5, abs=0.5)
    assert clustered.error.mean() > 2 * plain.error.mean()
    assert clustered.quantile == pytest.approx(
        scipy.stats.t.ppf(0.975, clustered.degrees), rel=0.01
    )


def test_one_voter_gives_no_finite_interval() -> None:
    battles = votes("ab", [("a", "b", 1, 3), ("a", "b", 0, 2)])
    ratings = fit(replace(battles, voter=np.zeros(5, int)), cluster_voters=True)
    assert np.isinf(ratings.error).all()
    assert ratings.rank.tolist() == [1, 1]


@pytest.mark.parametrize("degrees", [3.0, 5.0, 20.0, 1e3])
def test_quantiles_are_those_of_student(degrees: float) -> None:
    for chance in (0.9, 0.95, 0.975):
        expected = scipy.stats.t.ppf(chance, degrees)
        assert t_quantile(chance, degrees) == pytest.approx(expected, rel=2e-3)
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959964)


def test_feature_that_tells_every_result_has_a_finite_coefficient(simulate: Simulate) -> None:
    battles = simulate(STRENGTHS, 400, np.random.default_rng(9))
    battles = replace(battles, score=np.round(battles.score))
    told = replace(battles, features=battles.score[:, None] - 0.5)
    ratings = fit(told, style=True)
    assert np.isfinite(ratings.rating).all()
    assert ratings.coefficient[0] > 5


@pytest.mark.parametrize(("deviation", "low", "high"), [(0.0, 13, 22), (0.8, 4.5, 8)])
def test_degrees_of_freedom_follow_the_dependence_of_votes(
    simulate: Simulate, deviation: float, low: float, high: float
) -> None:
    """Five voters give half of the votes; they count the more, the more opinions differ."""
    rng = np.random.default_rng(10)
    voter = np.concatenate((rng.integers(0, 5, 2_500), rng.integers(5, 1_005, 2_500)))
    effects = rng.normal(0, deviation, (1_005, 8))
    battles = simulate(STRENGTHS, 5_000, rng, effects=effects, voter=voter)
    assert low < fit(battles, cluster_voters=True).degrees < high
