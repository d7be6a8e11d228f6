"""Columns of votes are checked at construction."""

from typing import Any

import numpy as np
import pytest

from human_evaluation.battles import UNKNOWN_VOTER, Battles

GOOD: dict[str, Any] = {
    "models": ("a", "b", "c"),
    "first": np.array([0, 1, 2]),
    "second": np.array([1, 2, 0]),
    "score": np.array([1.0, 0.5, 0.0]),
}


def test_defaults_are_weight_one_unknown_voters_and_no_features() -> None:
    battles = Battles(**GOOD)
    assert len(battles) == 3
    assert battles.weight.tolist() == [1, 1, 1]
    assert battles.voter.tolist() == [UNKNOWN_VOTER] * 3
    assert battles.features.shape == (3, 0)


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("second", np.array([1, 1, 0]), "vote 1"),
        ("first", np.array([0, 3, 2]), "0 to 2"),
        ("first", np.array([0, -1, 2]), "0 to 2"),
        ("first", np.array([0.0, 1.0, 2.0]), "int64"),
        ("score", np.array([1.0, 0.5, 1.5]), "0 to 1"),
        ("score", np.array([1.0, 0.5, np.nan]), "0 to 1"),
        ("score", np.array([1.0, 0.5]), "3 votes"),
        ("weight", np.array([1.0, -1.0, 1.0]), "at least 0"),
        ("weight", np.array([1.0, np.inf, 1.0]), "at least 0"),
        ("weight", np.array([]), "3 votes"),
        ("voter", np.array([0, 1, -2]), "at least 0"),
        ("voter", np.array([], dtype=int), "3 votes"),
        ("features", np.array([[0.0], [np.nan], [1.0]]), "finite"),
        ("features", np.zeros(3), "3 votes"),
        ("features", np.zeros((3, 33)), "32"),
        ("models", ("a", "b", "a"), "twice"),
        ("models", tuple(map(str, range(1_001))), "1000"),
    ],
)
def test_bad_columns_are_refused(field: str, value: Any, limit: str) -> None:
    with pytest.raises(ValueError, match=limit) as refused:
        Battles(**{**GOOD, field: value})
    assert str(refused.value).startswith(f"{field}:")


def test_selections_keep_models_and_all_columns() -> None:
    battles = Battles(
        **GOOD,
        weight=np.array([1.0, 2.0, 3.0]),
        voter=np.array([7, 8, 9]),
        features=np.arange(3.0)[:, None],
    )
    chosen = battles.select(np.array([False, True, True]))
    assert chosen.models == battles.models
    assert chosen.weight.tolist() == [2, 3]
    assert chosen.voter.tolist() == [8, 9]
    assert chosen.features.tolist() == [[1], [2]]
    assert battles.among(np.array([True, True, False])).voter.tolist() == [7]
