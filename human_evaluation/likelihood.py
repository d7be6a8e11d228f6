"""Likelihood of the Bradley-Terry model: its maximum and its sums over votes.

Legend: N rows, M models, F features, P = M + F parameters (strengths, then coefficients). The
chance of the first answer is the logistic function of the difference of the strengths plus the
features times the coefficients (Bradley and Terry 1952; with features: contextual Bradley-Terry).
A tie is half a victory of each. Sums are taken by pairs of models and in blocks of rows, so that no
[N, M] matrix exists. Without features the sums of weights and scores by pair are sufficient
statistics, so the time of a step does not depend on the number of votes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from human_evaluation.battles import Array, Battles, Index

BLOCK = 65_536
MAX_STEPS = 100
MAX_HALVINGS = 30
# Squared length of the last Newton step, measured by the Hessian, for each unit of weight. The step
# is then about 1e-9 in log-odds, and the error after the step is about the square of that.
TOLERANCE = 1e-20
# Steps with a fixed Hessian converge linearly, so the error after the last step is a part of it.
FOLLOW_TOLERANCE = 1e-19
FOLLOW_STEPS = 12
SHRINKAGE = 0.25  # of the squared step by each step; slower convergence needs new Hessians
# Keeps constant or equal features solvable; a coefficient shrinks by about 1e-7 of itself.
LEAST_PENALTY = 1e-8


@dataclass(frozen=True, eq=False)
class Rows:
    """Votes; equal votes are one row with their number.

    Attributes:
        models: M.
        first, second: indices of the models, [N].
        score: of the first answer, [N].
        weight: of a single vote, above 0, [N].
        count: number of votes, [N].
        features: standardized features, [N, F].
    """

    models: int
    first: Index
    second: Index
    score: Array
    weight: Array
    count: Array
    features: Array

    @property
    def parameters(self) -> int:
        return self.models + int(self.features.shape[1])

    @property
    def total(self) -> float:
        """Sum of the weights of the votes."""
        return float(self.weight @ self.count)

    def with_count(self, count: Array) -> Rows:
        return replace(self, count=count)

    def select(self, chosen: Index) -> Rows:
        """Return some of the rows."""
        names = ("first", "second", "score", "weight", "count", "features")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def by_pair(self) -> Rows:
        """Return a row of the total weight and the mean score of each pair, without features."""
        pair, size = self.first * self.models + self.second, self.models**2
        weight = self.weight * self.count
        totals: Array = np.bincount(pair, weight, size).astype(float)
        scores = np.bincount(pair, weight * self.score, size)
        pairs = np.flatnonzero(totals)
        first, second = np.divmod(pairs, self.models)
        totals, ones = totals[pairs], np.ones(len(pairs))
        empty = np.empty((len(pairs), 0))
        return Rows(self.models, first, second, scores[pairs] / totals, totals, ones, empty)

    def blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.first), BLOCK):
            yield slice(start, start + BLOCK)

    def logits(self, parameters: Array) -> Array:
        """Return each row's design vector times the parameters [P], [N].

        The design vector is 1 at the first model and -1 at the second, then the features. The
        product is the log-odds that the first answer wins.
        """
        strengths = parameters[: self.models]
        logits: Array = strengths[self.first] - strengths[self.second]
        if self.features.shape[1]:
            logits += self.features @ parameters[self.models :]
        return logits

    def gradient(self, values: Array) -> Array:
        """Return the sum of each row's value times its design vector, [P]."""
        strengths = np.bincount(self.first, values, self.models)
        strengths -= np.bincount(self.second, values, self.models)
        return np.concatenate((strengths, values @ self.features))

    def gram(self, values: Array) -> Array:
        """Return the sum of each row's value times the square of its design vector, [P, P]."""
        count = self.models
        pairs = np.bincount(self.first * count + self.second, values, count * count)
        between = pairs.reshape(count, count)
        between = between + between.T
        total = np.zeros((self.parameters, self.parameters))
        total[:count, :count] = np.diag(between.sum(axis=1)) - between
        for block in self.blocks() if self.features.shape[1] else ():
            scaled = values[block, None] * self.features[block]
            total[count:, count:] += scaled.T @ self.features[block]
            for feature, column in enumerate(scaled.T, count):
                sums = np.bincount(self.first[block], column, count)
                total[:count, feature] += sums - np.bincount(self.second[block], column, count)
        total[count:, :count] = total[:count, count:].T
        return total


def rows_of(battles: Battles, *, style: bool) -> tuple[Rows, Index]:
    """Return the votes as rows, and the row of each vote. Weights must be above 0.

    Without style equal votes form one row, and the order of the rows is independent of that of the
    votes: a fit is then the same to the last bit. With style each vote is a row, and features are
    standardized as in arena-rank 0.1.1: minus their mean, divided by their standard deviation.
    """
    models = len(battles.models)
    if style:
        if not battles.features.shape[1]:
            raise ValueError("style: the battles have no features")
        deviation = battles.features.std(axis=0)
        features = battles.features - battles.features.mean(axis=0)
        features /= np.where(deviation > 0, deviation, 1.0)
        columns = battles.first, battles.second, battles.score, battles.weight
        rows = Rows(models, *columns, np.ones(len(battles)), features)
        return rows, np.arange(len(battles))
    swapped = battles.first > battles.second
    low = np.where(swapped, battles.second, battles.first)
    high = np.where(swapped, battles.first, battles.second)
    score_of_low = np.where(swapped, 1 - battles.score, battles.score)
    scores, score = np.unique(score_of_low, return_inverse=True)
    weights, weight = np.unique(battles.weight, return_inverse=True)
    # At most MAX_MODELS ** 2 pairs, so that the product stays below 2 ** 63 for 3,000,000 votes.
    key = ((low * models + high) * len(scores) + score) * len(weights) + weight
    key, row, count = np.unique(key, return_inverse=True, return_counts=True)
    key, weight = np.divmod(key, len(weights))
    key, score = np.divmod(key, len(scores))
    low, high = np.divmod(key, models)
    empty = np.empty((len(key), 0))
    rows = Rows(models, low, high, scores[score], weights[weight], count.astype(float), empty)
    return rows, row


@dataclass(frozen=True, eq=False)
class Maximum:
    """Maximum of the likelihood.

    Attributes:
        parameters: [P]; the strengths have the mean 0.
        chance: of the first answer, [N].
        invert: computation of `inverse`.
    """

    parameters: Array
    chance: Array
    invert: Callable[[], Array]

    @cached_property
    def inverse(self) -> Array:
        """Inverse of the negative Hessian in the directions that votes determine, [P, P]."""
        return self.invert()


class Likelihood:
    """Penalized likelihood of rows.

    Args:
        penalty: of the squared coefficients, for each unit of weight; arena-rank's `reg`.
        ridge: of the squared strengths; 0 if every model has won and lost against the others.
    """

    def __init__(self, rows: Rows, penalty: float, ridge: float) -> None:
        models = rows.models
        self.rows, self.total = rows, rows.total
        self.weight = rows.weight * rows.count
        self._shrink: Array = np.full(rows.parameters, ridge)
        self._shrink[models:] = max(penalty, LEAST_PENALTY) * self.total
        # The votes leave the mean of the strengths open. Its curvature of 1 for each unit of weight
        # fixes the mean at 0 and changes nothing else.
        self._mean = np.zeros((rows.parameters, rows.parameters))
        self._mean[:models, :models] = self.total / models

    def value(self, parameters: Array, logits: Array) -> float:
        """Return the penalized log-likelihood."""
        terms = self.weight @ (self.rows.score * logits - np.logaddexp(0.0, logits))
        return float(terms - self._shrink @ parameters**2 / 2)

    def slope(self, parameters: Array, chance: Array) -> Array:
        """Return the gradient, [P]."""
        residual = self.weight * (self.rows.score - chance)
        return self.rows.gradient(residual) - self._shrink * parameters

    def hessian(self, chance: Array) -> Array:
        """Return the negative Hessian, with the curvature of the mean, [P, P]."""
        gram = self.rows.gram(self.weight * chance * (1 - chance))
        return gram + np.diag(self._shrink) + self._mean

    def inverse(self, hessian: Array) -> Array:
        """Return the inverse without the curvature of the mean, [P, P]."""
        models = self.rows.models
        inverse = np.linalg.inv(hessian).astype(np.float64, copy=False)
        inverse[:models, :models] -= 1 / (self.total * models)
        return inverse

    def inverse_at(self, chance: Array) -> Array:
        """Return the inverse of the negative Hessian at these chances, [P, P]."""
        return self.inverse(self.hessian(chance))


def chances(logits: Array) -> Array:
    """Return the logistic function without overflow."""
    chance: Array = (1 + np.tanh(logits / 2)) / 2
    return chance


def maximize(
    rows: Rows, *, penalty: float = 0.0, ridge: float = 0.0, start: Array | None = None
) -> Maximum:
    """Return the maximum of the likelihood by Newton steps.

    Args:
        penalty: of the squared coefficients, see `Likelihood`.
        ridge: of the squared strengths.
        start: parameters of a similar fit.

    Raises:
        ValueError: the likelihood has no finite maximum.
    """
    if rows.features.shape[1]:
        return _newton(rows, penalty, ridge, start)
    found = _newton(rows.by_pair(), penalty, ridge, start)
    return replace(found, chance=chances(rows.logits(found.parameters)))


def _newton(rows: Rows, penalty: float, ridge: float, start: Array | None) -> Maximum:
    likelihood = Likelihood(rows, penalty, ridge)
    total = likelihood.total
    parameters = np.zeros(rows.parameters) if start is None else start
    logits = rows.logits(parameters)
    reached = likelihood.value(parameters, logits)
    for _ in range(MAX_STEPS):
        chance = chances(logits)
        slope, hessian = likelihood.slope(parameters, chance), likelihood.hessian(chance)
        try:
            step = np.linalg.solve(hessian, slope)
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(step).all():
            break
        if slope @ step <= TOLERANCE * total:
            return Maximum(parameters + step, chance, partial(likelihood.inverse, hessian))
        for _ in range(MAX_HALVINGS):
            tried = parameters + step
            logits = rows.logits(tried)
            # At the maximum, rounding decides between equal values.
            if (value := likelihood.value(tried, logits)) >= reached - 1e-12 * total:
                break
            step = step / 2
        parameters, reached = tried, value
    raise ValueError("battles: the likelihood has no finite maximum")


def follow(
    rows: Rows, start: Array, hessian: Array, *, penalty: float = 0.0, ridge: float = 0.0
) -> Maximum | None:
    """Return the maximum next to that of similar rows, or None if it is not close.

    Steps with a fixed Hessian need the gradient only, which takes a fraction of the time of a
    Hessian with features.

    Args:
        start: parameters of the similar fit, [P].
        hessian: approximate negative Hessian, see `Likelihood.hessian`, [P, P].
        penalty: of the squared coefficients, see `Likelihood`.
        ridge: of the squared strengths.
    """
    likelihood, parameters, before = Likelihood(rows, penalty, ridge), start, np.inf
    try:
        inverse = np.linalg.inv(hessian)
    except np.linalg.LinAlgError:
        return None
    for _ in range(FOLLOW_STEPS):
        chance = chances(rows.logits(parameters))
        slope = likelihood.slope(parameters, chance)
        step = inverse @ slope
        squared = float(slope @ step)
        if not squared <= SHRINKAGE * before:
            return None
        parameters, before = parameters + step, squared
        if squared <= FOLLOW_TOLERANCE * likelihood.total:
            return Maximum(parameters, chance, partial(likelihood.inverse_at, chance))
    return None
