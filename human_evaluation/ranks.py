"""Ranks with their uncertainty, shares of victories, and votes that a decision still needs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from human_evaluation.battles import Array, Battles, Index
from human_evaluation.bradley_terry import CONFIDENCE, LEAST_DEGREES, Ratings

POWER = 0.8
DRAWS = 2_000
BLOCK = 2_000_000  # differences in memory at a time


@dataclass(frozen=True, eq=False)
class RankRanges:
    """Lowest and highest rank that the votes permit; 0 for unranked models, [M]."""

    low: Index
    high: Index


@dataclass(frozen=True, eq=False)
class WinMatrix:
    """Results of pairs of models.

    Attributes:
        share: of the row's model in the weight of the pair's votes, ties as half; NaN without votes
            of a positive weight, [M, M].
        votes: number of votes with a positive weight, [M, M].
    """

    share: Array
    votes: Index


@dataclass(frozen=True)
class Neighbours:
    """Models with successive ratings.

    Attributes:
        upper, lower: names.
        difference: of the ratings, at least 0.
        error: standard error of the difference.
        votes: battles of the two models that a decision needs; 0 if the models differ already, None
            if no number helps because the ratings are equal.
    """

    upper: str
    lower: str
    difference: float
    error: float
    votes: int | None


def rank_ranges(ratings: Ratings, confidence: float = CONFIDENCE) -> RankRanges:
    """Return ranges that contain the true ranks of all models at once, with this confidence.

    A model is above another if their difference exceeds its standard error by a factor that holds
    for all pairs: the quantile of the largest of the standardized differences, from draws of the
    ratings' distribution (Mogstad, Romano, Shaikh and Wilhelm 2024).
    """
    count, chosen = len(ratings.models), np.flatnonzero(ratings.ranked)
    low, high = np.zeros(count, np.int64), np.zeros(count, np.int64)
    low[chosen], high[chosen] = 1, len(chosen)
    covariance = ratings.covariance[np.ix_(chosen, chosen)]
    if not len(chosen) or not np.isfinite(covariance).all():
        return RankRanges(low, high)
    error = ratings.difference_error[np.ix_(chosen, chosen)]
    error[error <= 0] = np.inf  # of a model and itself
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((DRAWS, len(chosen))) @ root.T
    if math.isfinite(ratings.degrees):
        degrees = max(ratings.degrees, LEAST_DEGREES)
        draws /= np.sqrt(rng.chisquare(degrees, DRAWS) / degrees)[:, None]
    largest = [
        (np.abs(block[:, :, None] - block[:, None, :]) / error).max(axis=(1, 2))
        for block in np.array_split(draws, math.ceil(draws.size * len(chosen) / BLOCK))
    ]
    factor = np.quantile(np.concatenate(largest), confidence)
    rating = ratings.rating[chosen]
    above = rating[:, None] - rating > factor * error
    low[chosen] += above.sum(axis=0)
    high[chosen] -= above.sum(axis=1)
    return RankRanges(low, high)


def win_matrix(battles: Battles) -> WinMatrix:
    """Return the observed results of all pairs."""
    count = len(battles.models)
    cell = battles.first * count + battles.second
    wins = _square(cell, battles.weight * battles.score, count)
    wins += _square(cell, battles.weight * (1 - battles.score), count).T
    votes = _square(cell, (battles.weight > 0).astype(float), count)
    weight = wins + wins.T
    share = np.divide(wins, weight, out=np.full_like(wins, np.nan), where=weight > 0)
    return WinMatrix(share, (votes + votes.T).astype(np.int64))


def chances(ratings: Ratings) -> Array:
    """Return the expected share of victories of the row's model, ties as half, [M, M]."""
    expected: Array = 1 / (1 + np.exp((ratings.rating - ratings.rating[:, None]) / ratings.scale))
    return expected


def neighbours(
    ratings: Ratings, *, confidence: float = CONFIDENCE, power: float = POWER
) -> tuple[Neighbours, ...]:
    """Return successive models and the battles between them until their order is decided.

    The order counts as decided if the difference is significant by itself, not together with
    others. If the true difference is the present one, the stated number of battles decides with the
    chance `power`. k battles between two models add k p (1 - p) / dispersion to the precision of
    the difference in log-odds, with p as the chance of a victory.
    """
    expected, error = chances(ratings), ratings.difference_error
    aim = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(power)
    found = []
    order = ratings.order
    for upper, lower in pairwise(order):
        difference = float(ratings.rating[upper] - ratings.rating[lower])
        deviation = float(error[upper, lower])
        chance = float(expected[upper, lower])
        votes: int | None = 0
        if difference <= ratings.quantile * deviation:
            votes = None
            if difference > 0:
                lacking = (aim / difference) ** 2 - deviation**-2
                precision = chance * (1 - chance) / (ratings.dispersion * ratings.scale**2)
                # With few voters the quantile is larger than that of the formula.
                votes = max(1, math.ceil(lacking / precision))
        found.append(
            Neighbours(ratings.models[upper], ratings.models[lower], difference, deviation, votes)
        )
    return tuple(found)


def _square(cell: Index, values: Array, count: int) -> Array:
    sums = np.bincount(cell, values, count * count)
    return sums.reshape(count, count).astype(np.float64, copy=False)
