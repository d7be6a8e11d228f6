"""Ratings of models by votes on their answers.

The Bradley-Terry model at its maximum likelihood, with errors by the sandwich estimator (Huber
1967, White 1982): they hold without the assumption that votes follow the model, so that ties and
weights need no special case. Errors may treat the votes of each voter as dependent (Liang and Zeger
1986).
Decisions and figures: docs/decisions/human-evaluation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from human_evaluation.battles import UNKNOWN_VOTER, Array, Battles, Index, Mask
from human_evaluation.likelihood import Maximum, Rows, maximize, rows_of

ELO_SCALE = 400 / math.log(10)  # points for a unit of log-odds
ELO_CENTRE = 1000.0
CONFIDENCE = 0.95
VOTERS_IN_BLOCK = 4_096
LEAST_DEGREES = 3.0  # below it the series of `t_quantile` is inaccurate


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings of M models. Unranked models have NaN as rating, errors and interval, and rank 0.

    Attributes:
        models: names, M.
        rating: points, [M].
        error: standard error, infinite if all votes are those of one voter, [M].
        covariance: of the ratings, in squared points, [M, M].
        low, high: confidence interval of each rating by itself, [M].
        rank: 1 + number of models whose interval lies above this model's, as in LMArena, [M].
        ranked: whether the votes determine the rating, [M].
        component: number of the model's component, 0 for that of the ranked models, [M].
        votes: number of votes with a positive weight, [M].
        coefficient: log-odds for a standard deviation of each feature, [F]; empty without style.
        coefficient_error: standard error, [F].
        degrees: degrees of freedom of the intervals; infinite without clusters.
        quantile: half width of an interval in standard errors.
        dispersion: variance of votes divided by that of victories without ties.
        scale: points for a unit of log-odds.
    """

    models: tuple[str, ...]
    rating: Array
    error: Array
    covariance: Array
    low: Array
    high: Array
    rank: Index
    ranked: Mask
    component: Index
    votes: Index
    coefficient: Array
    coefficient_error: Array
    degrees: float
    quantile: float
    dispersion: float
    scale: float

    @property
    def order(self) -> Index:
        """Ranked models from the highest to the lowest rating."""
        order = np.argsort(-self.rating, kind="stable")  # NaN is last
        return order[: int(self.ranked.sum())]

    @property
    def difference_error(self) -> Array:
        """Standard error of the difference of two ratings, [M, M]."""
        variance = np.diag(self.covariance)
        squared = variance[:, None] + variance - 2 * self.covariance
        np.fill_diagonal(squared, 0.0)
        return np.sqrt(np.maximum(squared, 0.0))


@dataclass(frozen=True)
class Clusters:
    """Dependence of the votes of the same voter.

    Attributes:
        meat: sum of the squared scores of voters, [P, P].
        degrees: effective number of voters.
        correction: factor of the variance for the votes' part in their own fit.
    """

    meat: Array
    degrees: float
    correction: float


def fit(
    battles: Battles,
    *,
    scale: float = ELO_SCALE,
    centre: float = ELO_CENTRE,
    anchor: str | None = None,
    style: bool = False,
    style_penalty: float = 0.0,
    cluster_voters: bool = False,
    confidence: float = CONFIDENCE,
) -> Ratings:
    """Return the ratings of the models.

    A model is ranked if a chain of victories or ties leads from it to the other ranked models and
    back; otherwise its rating has no finite maximum. Of several such groups the one with the most
    votes is ranked, and votes with other models are left out.

    Args:
        battles: votes; those of weight 0 are left out.
        scale: points for a unit of log-odds; the default gives 10 times the odds for 400 points.
        centre: mean of the ratings, or rating of `anchor`.
        anchor: name of a model with a fixed rating, whose error is 0.
        style: remove the effect of `battles.features` from the ratings.
        style_penalty: half of it times the squared coefficients is subtracted from the mean
            log-likelihood; arena-rank's `reg`, there 1 by default.
        cluster_voters: treat the votes of each voter as dependent.
        confidence: of the intervals, between 0 and 1.

    Raises:
        ValueError: style without features, an anchor that is unknown or unranked, or a confidence
            outside its range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is not between 0 and 1")
    count, features = len(battles.models), battles.features.shape[1] if style else 0
    battles = battles.select(battles.weight > 0)
    component, ranked = components(battles)
    fixed = None if anchor is None else _model(battles, anchor, ranked)
    votes = np.bincount(battles.first, minlength=count)
    votes += np.bincount(battles.second, minlength=count)
    rating, covariance = np.full(count, np.nan), np.full((count, count), np.nan)
    coefficients, errors = np.full(features, np.nan), np.full(features, np.nan)
    dispersion, degrees = 1.0, math.inf
    if ranked.any():
        used, place = _renumbered(battles, ranked)
        rows, row = rows_of(used, style=style)
        maximum = maximize(rows, penalty=style_penalty)
        variance, degrees = _variance(rows, row, used.voter, maximum, cluster_voters)
        dispersion = _dispersion(rows, maximum)
        size = len(place)
        shift = np.eye(size)
        # Ratings relative to the anchor, or to the mean, which `maximize` sets to 0.
        shift -= 1 / size if fixed is None else (place == fixed).astype(float)
        rating[place] = centre + scale * (shift @ maximum.parameters[:size])
        covariance[np.ix_(place, place)] = np.diag(np.full(size, math.inf))
        if np.isfinite(variance).all():
            covariance[np.ix_(place, place)] = scale**2 * shift @ variance[:size, :size] @ shift.T
        coefficients = maximum.parameters[size:]
        errors = np.sqrt(np.maximum(np.diag(variance)[size:], 0.0))
    error = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    quantile = t_quantile((1 + confidence) / 2, degrees)
    low, high = rating - quantile * error, rating + quantile * error
    rank = np.where(ranked, 1 + (low[None, :] > high[:, None]).sum(axis=1), 0)
    return Ratings(
        models=battles.models,
        rating=rating,
        error=error,
        covariance=covariance,
        low=low,
        high=high,
        rank=rank,
        ranked=ranked,
        component=component,
        votes=votes,
        coefficient=coefficients,
        coefficient_error=errors,
        degrees=degrees,
        quantile=quantile,
        dispersion=dispersion,
        scale=scale,
    )


def _model(battles: Battles, name: str, ranked: Mask) -> int:
    """Return the index of a ranked model."""
    if name not in battles.models:
        raise ValueError(f"anchor: {name!r} is none of the models")
    index = battles.models.index(name)
    if not ranked[index]:
        raise ValueError(f"anchor: {name!r} is unranked for lack of victories or defeats")
    return index


def components(battles: Battles) -> tuple[Index, Mask]:
    """Return each model's component [M], and the ranked models [M].

    Models of a component are connected by victories or ties in both directions. Component 0 has the
    most votes among the components of at least two models; its models are ranked.
    """
    component = connected(len(battles.models), battles.first, battles.second, battles.score)
    inside = component[battles.first] == component[battles.second]
    votes = np.bincount(component[battles.first[inside]], minlength=len(battles.models))
    number = np.empty(len(votes), np.int64)
    number[np.argsort(-votes, kind="stable")] = np.arange(len(votes))
    component = number[component]
    return component, (component == 0) & bool(votes.any())


def connected(models: int, first: Index, second: Index, score: Array) -> Index:
    """Return for each model the lowest model that it is connected with in both directions, [M]."""
    reaches = np.eye(models, dtype=bool)
    reaches[first[score > 0], second[score > 0]] = True
    reaches[second[score < 1], first[score < 1]] = True
    for _ in range(max(models - 1, 1).bit_length()):
        # Each product doubles the length of the chains. BLAS multiplies floats, not booleans.
        reaches = reaches.astype(np.float32) @ reaches.astype(np.float32) > 0
    lowest: Index = (reaches & reaches.T).argmax(axis=1) if models else np.empty(0, np.int64)
    return lowest


def t_quantile(chance: float, degrees: float) -> float:
    """Return the quantile of Student's distribution, for at least 3 degrees of freedom.

    Series in 1 / degrees (Abramowitz and Stegun 26.7.5), exact to 0.1 % for chances up to 0.975.
    """
    z, v = NormalDist().inv_cdf(chance), max(degrees, LEAST_DEGREES)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v**power for power, term in enumerate(terms, 1))


def _renumbered(battles: Battles, chosen: Mask) -> tuple[Battles, Index]:
    """Return the votes among the chosen models without the others, and their old indices."""
    battles, place = battles.among(chosen), np.flatnonzero(chosen)
    number = np.cumsum(chosen) - 1
    renumbered = Battles(
        models=tuple(battles.models[model] for model in place),
        first=number[battles.first],
        second=number[battles.second],
        score=battles.score,
        weight=battles.weight,
        voter=battles.voter,
        features=battles.features,
    )
    return renumbered, place


def _variance(
    rows: Rows, row: Index, voter: Index, maximum: Maximum, clustered: bool
) -> tuple[Array, float]:
    """Return the sandwich [P, P] and its degrees of freedom."""
    residual = rows.weight * (rows.score - maximum.chance)
    meat = rows.gram(rows.count * residual**2)
    if not clustered:
        return maximum.inverse @ meat @ maximum.inverse, math.inf
    clusters = _clusters(rows, row, voter, residual, meat, maximum.inverse)
    if math.isinf(clusters.correction):
        # A single voter says nothing about others.
        return np.diag(np.full(rows.parameters, math.inf)), clusters.degrees
    variance = maximum.inverse @ clusters.meat @ maximum.inverse * clusters.correction
    return variance, clusters.degrees


def _clusters(
    rows: Rows, row: Index, voter: Index, residual: Array, independent: Array, inverse: Array
) -> Clusters:
    """Return the sums over voters, with a correction for few or unequal voters.

    A voter's score is the sum over the voter's votes. With voters of unequal weight w (shares of
    the total), few of them determine the variance. Let s be a voter's share of it. The votes' part
    in their own fit lowers the expected estimate by the factor 1 - 2 sum(s w) + sum(w^2), which is
    (G - 1) / G for G equal voters. The estimate varies as one with 1 / sum(s^2) degrees of freedom
    (Carter, Schnepel and Steigerwald 2017; Imbens and Kolesár 2016). s follows from the correlation
    of a voter's votes, which is estimated over all ratings.
    """
    # Each unknown voter is another person.
    unknown = voter == UNKNOWN_VOTER
    voter = np.where(unknown, voter.max(initial=0) + 1 + np.cumsum(unknown), voter)
    _, voter, size = np.unique(voter, return_inverse=True, return_counts=True)
    weights = np.bincount(voter, rows.weight[row])
    squares = np.bincount(voter, rows.weight[row] ** 2)
    repeated = size[voter] > 1
    # Voters with a single vote need no sum.
    meat = rows.gram(np.bincount(row[~repeated], minlength=len(rows.first)) * residual**2)
    order = np.flatnonzero(repeated)
    order = order[np.argsort(voter[order], kind="stable")]
    starts = np.flatnonzero(np.diff(voter[order], prepend=-1))
    for low in range(0, len(starts), VOTERS_IN_BLOCK):
        ends = starts[low + VOTERS_IN_BLOCK : low + VOTERS_IN_BLOCK + 1]
        votes = order[starts[low] : int(ends[0]) if len(ends) else len(order)]
        local: Index = np.cumsum(np.diff(voter[votes], prepend=voter[votes[0]]) > 0)
        scores = _scores(rows, row[votes], local, residual)
        meat += scores.T @ scores
    models = rows.models
    bread = inverse[:models]
    apart = np.trace(bread @ independent @ bread.T)
    excess = np.trace(bread @ meat @ bread.T) / apart - 1 if apart > 0 else 0.0
    pairs = weights**2 - squares
    total = pairs.sum()
    correlation = max(0.0, excess * squares.sum() / total) if total > 0 else 0.0
    share = squares + correlation * pairs
    share, weights = share / share.sum(), weights / weights.sum()
    kept = 1 - 2 * share @ weights + weights @ weights
    return Clusters(meat, float(1 / (share @ share)), float(1 / kept) if kept > 0 else math.inf)


def _scores(rows: Rows, row: Index, voter: Index, residual: Array) -> Array:
    """Return the sum of residuals times design vectors by voter, [voters, P]."""
    width, voters, values = rows.parameters, int(voter[-1]) + 1, residual[row]
    size = voters * width
    sums = np.bincount(voter * width + rows.first[row], values, size)
    sums -= np.bincount(voter * width + rows.second[row], values, size)
    scores = sums.reshape(voters, width).astype(np.float64, copy=False)
    for feature in range(rows.features.shape[1]):
        column = values * rows.features[row, feature]
        scores[:, rows.models + feature] = np.bincount(voter, column, voters)
    return scores


def _dispersion(rows: Rows, maximum: Maximum) -> float:
    """Return the variance of the votes divided by that of victories without ties."""
    squares = rows.count * rows.weight**2
    chance = maximum.chance
    expected = squares @ (chance * (1 - chance))
    return float(squares @ (rows.score - chance) ** 2 / expected)
