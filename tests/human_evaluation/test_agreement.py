"""Agreement of raters against published and other implementations' figures."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from human_evaluation.agreement import Scale, cohen_kappa, krippendorff_alpha

NONE = np.nan
# Krippendorff, Computing Krippendorff's alpha-reliability (2011), section C: 4 observers, 12 units.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
).T


@pytest.mark.parametrize(
    ("scale", "expected"),
    [(Scale.NOMINAL, 0.743), (Scale.ORDINAL, 0.815), (Scale.INTERVAL, 0.849)],
)
def test_alpha_of_the_published_example(scale: Scale, expected: float) -> None:
    agreement = krippendorff_alpha(PUBLISHED, scale)
    assert agreement.value == pytest.approx(expected, abs=5e-4)
    assert agreement.low < agreement.value < agreement.high <= 1
    assert (agreement.items, agreement.ratings) == (11, 40)


def alpha_by_pairs(table: np.ndarray, distance: np.ndarray) -> float:
    """Return alpha by its definition, from all pairs of ratings 0, 1, ..."""
    within = total = 0.0
    every = []
    for row in table:
        values = row[~np.isnan(row)].astype(int)
        if len(values) > 1:
            every.extend(values)
            total += len(values)
            pairs = distance[np.ix_(values, values)].sum()
            within += pairs / (len(values) - 1)
    between = distance[np.ix_(every, every)].sum() / (total - 1)
    return 1 - within / between


def test_alpha_equals_its_definition_by_pairs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (60, 1))
    table = np.clip(truth + rng.integers(-1, 2, (60, 4)), 0, 4).astype(float)
    table[rng.random(table.shape) < 0.3] = np.nan
    step = np.arange(5)
    squares = (step[:, None] - step) ** 2.0
    paired = table[(~np.isnan(table)).sum(axis=1) > 1]
    frequency = np.bincount(paired[~np.isnan(paired)].astype(int), minlength=5)
    middle = np.cumsum(frequency) - frequency / 2
    for scale, distance in (
        (Scale.NOMINAL, (squares > 0).astype(float)),
        (Scale.INTERVAL, squares),
        (Scale.ORDINAL, (middle[:, None] - middle) ** 2),
    ):
        value = krippendorff_alpha(table, scale).value
        assert value == pytest.approx(alpha_by_pairs(table, distance))


def test_kappa_equals_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(1, 6, 200).astype(float)
    second = np.clip(first + rng.integers(-1, 2, 200), 1, 5)
    for quadratic, weights in ((False, None), (True, "quadratic")):
        agreement = cohen_kappa(first, second, quadratic=quadratic)
        assert agreement.value == pytest.approx(cohen_kappa_score(first, second, weights=weights))
        assert agreement.low < agreement.value < agreement.high
    missing = first.copy()
    missing[:50] = np.nan
    assert cohen_kappa(missing, second).value == pytest.approx(
        cohen_kappa_score(first[50:], second[50:])
    )
    assert cohen_kappa(missing, second).items == 150


def test_no_variation_and_no_pairs_have_no_coefficient() -> None:
    for table in (np.ones((5, 2)), np.array([[1.0, np.nan]]), np.empty((0, 2))):
        agreement = krippendorff_alpha(table, Scale.NOMINAL)
        assert np.isnan([agreement.value, agreement.low, agreement.high]).all()
    assert np.isnan(cohen_kappa([1, 1], [1, 1]).value)
    assert np.isnan(cohen_kappa([], []).value)


def test_full_agreement_is_one() -> None:
    rated = [[1, 1, 1], [2, 2, np.nan], [3, 3, 3]]
    for scale in Scale:
        assert krippendorff_alpha(rated, scale).value == 1


@pytest.mark.parametrize(
    ("call", "limit"),
    [
        (lambda: krippendorff_alpha([1.0, 2.0], Scale.NOMINAL), "matrix"),
        (lambda: krippendorff_alpha([[1.0, np.inf]], Scale.NOMINAL), "finite"),
        (lambda: krippendorff_alpha(np.arange(42.0).reshape(-1, 2), Scale.INTERVAL), "20"),
        (lambda: cohen_kappa([1.0], [1.0, 2.0]), "as many"),
        (lambda: cohen_kappa([1.0], [1.0], confidence=0.0), "between 0 and 1"),
    ],
)
def test_bad_ratings_are_refused(call: object, limit: str) -> None:
    with pytest.raises(ValueError, match=limit):
        call()  # type: ignore[operator]
