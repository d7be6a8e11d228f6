"""Agreement of raters beyond chance, with intervals.

Krippendorff's alpha (Krippendorff 2018, chapter 12) for any number of raters and missing ratings,
and Cohen's kappa (Cohen 1960; quadratic weights: Cohen 1968) for two raters. Intervals are
percentiles of a bootstrap that draws items with replacement. The package `krippendorff` has a
licence (GPL) that this project cannot use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from human_evaluation.battles import Array, Index

MAX_VALUES = 20  # different ratings; each kind of item has a matrix of their pairs
SAMPLES = 1_000
SAMPLES_IN_BLOCK = 100
CONFIDENCE = 0.95


class Scale(StrEnum):
    """Meaning of differences between ratings."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"
    INTERVAL = "interval"


@dataclass(frozen=True)
class Agreement:
    """Coefficient of agreement: 1 for full agreement, 0 for that of chance.

    Attributes:
        value: NaN if no item has two ratings, or if all ratings are equal.
        low, high: interval, NaN as above.
        items: number of items with at least two ratings.
        ratings: number of ratings of these items.
    """

    value: float
    low: float
    high: float
    items: int
    ratings: int


def krippendorff_alpha(
    ratings: npt.ArrayLike,
    scale: Scale,
    *,
    confidence: float = CONFIDENCE,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Agreement:
    """Return Krippendorff's alpha.

    Args:
        ratings: numbers, [items, raters]; NaN is a missing rating.
        scale: meaning of the numbers.
        confidence: of the interval.
        samples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: not a matrix, infinite ratings, or more than MAX_VALUES different ratings.
    """
    table = np.asarray(ratings, float)
    if table.ndim != 2 or np.isinf(table).any():
        raise ValueError("ratings: a matrix of items and raters with finite numbers is expected")
    table = table[(~np.isnan(table)).sum(axis=1) >= 2]
    values, counts = _counts(table)
    kinds, number = np.unique(counts, axis=0, return_counts=True)
    # Pairs of an item's ratings, weighted so that they count as many as the item has ratings.
    pairs = np.einsum("ij,ik->ijk", kinds, kinds)
    pairs[:, range(len(values)), range(len(values))] -= kinds
    pairs /= np.maximum(kinds.sum(axis=1) - 1, 1)[:, None, None]

    def coefficient(coincidences: Array) -> Array:
        marginal = coincidences.sum(axis=-1)
        distance = _distances(values, marginal, scale)
        observed = (coincidences * distance).sum(axis=(-1, -2))
        expected = ((marginal[:, None] @ distance)[:, 0] * marginal).sum(axis=-1)
        return _one_minus(observed * (marginal.sum(axis=-1) - 1), expected)

    return _with_interval(coefficient, pairs, number, int(counts.sum()), confidence, samples, seed)


def cohen_kappa(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    quadratic: bool = False,
    confidence: float = CONFIDENCE,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Agreement:
    """Return Cohen's kappa of two raters; items without both ratings are left out.

    Args:
        first: numbers of a rater, [items]; NaN is a missing rating.
        second: numbers of the other rater, [items].
        quadratic: weight a disagreement by the square of the difference of the places of its
            ratings among all ratings, as in scikit-learn.
        confidence: of the interval.
        samples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: lengths differ, infinite ratings, or more than MAX_VALUES different ratings.
    """
    columns = np.asarray(first, float), np.asarray(second, float)
    if columns[0].ndim != 1 or columns[0].shape != columns[1].shape:
        raise ValueError("second: as many ratings as those of `first` are expected")
    table = np.column_stack(columns)
    if np.isinf(table).any():
        raise ValueError("ratings: an infinite number is none")
    table = table[~np.isnan(table).any(axis=1)]
    values, places = np.unique(table, return_inverse=True)
    _check_values(values)
    size = len(values)
    places = places.reshape(table.shape)
    cells, number = np.unique(places[:, 0] * size + places[:, 1], return_counts=True)
    step = np.arange(size)
    distance = (step[:, None] - step) ** 2 if quadratic else step[:, None] != step
    distance = distance.astype(float)

    def coefficient(confusion: Array) -> Array:
        observed: Array = (confusion * distance).sum(axis=(-1, -2))
        margins = confusion.sum(axis=-1), confusion.sum(axis=-2)
        expected = np.einsum("sj,sk,jk->s", *margins, distance)
        return _one_minus(observed * len(table), expected)

    kinds = np.eye(size * size)[cells].reshape(len(cells), size, size)
    return _with_interval(coefficient, kinds, number, table.size, confidence, samples, seed)


def _counts(table: Array) -> tuple[Array, Array]:
    """Return the different ratings [V], and how often each item has each of them [items, V]."""
    rated = ~np.isnan(table)
    values, places = np.unique(table[rated], return_inverse=True)
    _check_values(values)
    items: Index = np.nonzero(rated)[0]
    size = len(table) * len(values)
    counts = np.bincount(items * len(values) + places, minlength=size).astype(float)
    return values, counts.reshape(len(table), len(values))


def _check_values(values: Array) -> None:
    if len(values) > MAX_VALUES:
        raise ValueError(
            f"ratings: {len(values)} different numbers exceed the limit of {MAX_VALUES}"
        )


def _distances(values: Array, marginal: Array, scale: Scale) -> Array:
    """Return the squared differences of ratings, [V, V] or, of ranks, [samples, V, V]."""
    if scale is Scale.NOMINAL:
        return np.not_equal.outer(values, values).astype(np.float64)
    if scale is Scale.INTERVAL:
        squares: Array = (values[:, None] - values) ** 2
        return squares
    # Ratings between the two, and half of the two themselves.
    middle = np.cumsum(marginal, axis=-1) - marginal / 2
    ordinal: Array = (middle[:, :, None] - middle[:, None, :]) ** 2
    return ordinal


def _one_minus(observed: Array, expected: Array) -> Array:
    """Return 1 minus the quotient; NaN where no disagreement is possible."""
    missing = np.full(np.shape(expected), np.nan)
    quotient: Array = 1 - np.divide(observed, expected, out=missing, where=np.asarray(expected) > 0)
    return quotient


def _with_interval(
    coefficient: Callable[[Array], Array],
    kinds: Array,
    number: Index,
    ratings: int,
    confidence: float,
    samples: int,
    seed: int,
) -> Agreement:
    """Return the coefficient of all items, and its percentiles over draws of items.

    Args:
        coefficient: of sums of items' tables, [samples, V, V] to [samples].
        kinds: tables of different items, [kinds, V, V].
        number: of equal items, [kinds].
        ratings: number of ratings.
        confidence, samples, seed: as in `krippendorff_alpha`.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is not between 0 and 1")
    items = int(number.sum())
    if not items:
        return Agreement(np.nan, np.nan, np.nan, 0, 0)
    value = float(coefficient(np.tensordot(number[None], kinds, axes=1))[0])
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, samples, SAMPLES_IN_BLOCK):
        block = min(SAMPLES_IN_BLOCK, samples - start)
        drawn = rng.multinomial(items, number / items, block)
        found.append(coefficient(np.tensordot(drawn, kinds, axes=1)))
    # A draw whose ratings are all equal has no coefficient.
    known = np.concatenate(found)
    known = known[~np.isnan(known)]
    low, high = np.nan, np.nan
    if len(known):
        low, high = np.quantile(known, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Agreement(value, float(low), float(high), items, ratings)
