"""Paired differences: bounds with their nominal error, that never improve with a worse item."""

from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.errors import refused
from tests.training.evaluation.measurements import exact_drop_bound
from training.artifacts.scores import ItemScore, ScoreError
from training.evaluation import paired as module
from training.evaluation.paired import paired, paired_items, read_paired

NAMES = [f"{number}" for number in range(400)]


def difference(values: list[float] | np.ndarray, *, share: bool = True) -> module.Paired:
    """Return the comparison of these differences with an incumbent that scores 0."""
    return paired(values, [0.0] * len(values), NAMES[: len(values)], share=share)


@pytest.mark.parametrize("items", [20, 60, 149, 400])
def test_items_without_a_loss_bound_the_drop_as_the_exact_test_does(items: int) -> None:
    found = difference([0.0] * items)
    assert found.low == pytest.approx(-exact_drop_bound(items), rel=0.1)
    assert found.high == pytest.approx(-found.low)


def test_weights_and_clusters_of_items_are_respected() -> None:
    new, old = [1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]
    found = paired(new, old, ["a", "a", "b", "c"], [3.0, 1.0, 1.0, 1.0], share=False)
    assert (found.items, found.clusters) == (4, 3)
    assert found.candidate == pytest.approx(4 / 6)
    assert found.difference == pytest.approx(2 / 6)
    copied = paired(
        new * 9, old * 9, ["a", "a", "b", "c"] * 9, [3.0, 1.0, 1.0, 1.0] * 9, share=False
    )
    assert (copied.low, copied.high) == pytest.approx((found.low, found.high))


@pytest.mark.parametrize("values", [[], [0.3], [0.1, 0.9]])
def test_a_single_cluster_gives_no_bound(values: list[float]) -> None:
    found = paired(values, values, ["one"] * len(values), share=True)
    assert (found.low, found.high) == (-np.inf, np.inf)
    assert read_paired(found.fields()).low == -np.inf


def test_items_of_one_version_only_are_refused() -> None:
    first, second = [ItemScore("a", 1.0), ItemScore("b", 1.0)], [ItemScore("a", 1.0)]
    for new, old in ((first, second), (second, first), (first, [*first, first[0]])):
        with refused(ScoreError, field="items"):
            paired_items(new, old, share=True)
    assert paired_items(first, first[::-1], share=True).difference == 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=20, max_size=40),
    st.data(),
    st.booleans(),
)
def test_bound_never_improves_if_an_item_gets_worse(
    values: list[float], data: st.DataObject, share: bool
) -> None:
    before = difference(values, share=share)
    place = data.draw(st.integers(0, len(values) - 1))
    values[place] = data.draw(st.floats(-1, values[place]))
    after = difference(values, share=share)
    assert after.low <= before.low
    assert after.difference <= before.difference + 1e-12
    assert after.high <= before.high


# Items, share of items that the candidate loses, and that it wins.
CASES = [
    (60, 0.10, 0.0),
    (60, 0.10, 0.05),
    (60, 0.20, 0.10),
    (200, 0.02, 0.0),
    (200, 0.10, 0.05),
]


@pytest.mark.parametrize(
    ("items", "lost", "won", "trials"),
    [
        (60, 0.2, 0.1, 200),
        *(pytest.param(*case, 2000, marks=pytest.mark.long) for case in CASES),
    ],
)
def test_bound_is_above_the_truth_in_a_twentieth_of_the_trials(
    items: int, lost: float, won: float, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three standard errors above 5 % are accepted for 2,000 trials: 6.5 %."""
    monkeypatch.setattr(module, "RESAMPLES", 1000)
    generator, wrong = np.random.default_rng(items), 0
    for _ in range(trials):
        drawn = generator.choice([-1.0, 0.0, 1.0], items, p=[lost, 1 - lost - won, won])
        wrong += difference(drawn).low > won - lost
    assert wrong / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_bound_is_of_the_expected_width_for_many_items() -> None:
    generator = np.random.default_rng(1)
    drawn = generator.normal(0.1, 1.0, 400)
    found = difference(drawn, share=False)
    half = 1.645 * drawn.std() / 20
    assert found.difference - found.low == pytest.approx(half, rel=0.1)
    assert found.high - found.difference == pytest.approx(half, rel=0.1)


def test_clusters_widen_the_bound() -> None:
    generator = np.random.default_rng(2)
    rates, numbers = generator.choice([-0.8, 0.8], 40), count()
    values = [float(generator.random() < (1 + rate) / 2) for rate in rates for _ in range(8)]
    zeros, prompts = [0.5] * len(values), [str(next(numbers) // 8) for _ in values]
    clustered = paired(values, zeros, prompts, share=False)
    alone = paired(values, zeros, NAMES[: len(values)], share=False)
    assert clustered.difference - clustered.low > 1.8 * (alone.difference - alone.low)
