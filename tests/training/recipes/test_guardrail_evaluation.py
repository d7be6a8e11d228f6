"""Figures of the evaluation: recall at fixed false alarm rates, intervals and the baseline."""

import numpy as np
import pytest

from training.recipes.guardrail.evaluation import TextSet, keyword_scores, measure, wilson_interval


def length_scores(texts: object) -> object:
    """Return scores of two heads, given by the length of a text."""
    return np.array([[len(text), len(text)] for text in texts], dtype=float)  # type: ignore[attr-defined]


def test_recall_counts_texts_above_the_false_alarm_threshold() -> None:
    benign = TextSet("benign", "benign", tuple("x" * length for length in range(1, 101)))
    harmful = TextSet(
        "harmful", "harmful_intent", tuple("x" * length for length in (50, 98, 100, 101, 200))
    )
    report = measure(length_scores, [benign, harmful], [96.0, 1000.0])
    figures = report["harmful_intent"]
    assert figures["recall_at_0.05"][0] == pytest.approx(0.8)
    assert figures["recall_at_0.001"][0] == pytest.approx(0.4)
    assert figures["positives"] == 5
    assert figures["negatives"] == 100
    low, high = figures["recall_at_0.05"][1:]
    assert 0 <= low <= 0.8 <= high <= 1
    assert report["at_threshold"]["benign (benign)"]["flagged"] == pytest.approx(0.05)
    assert report["at_threshold"]["benign (benign)"]["injection"] == 0


def test_a_perfect_score_has_an_area_of_one_and_full_recall() -> None:
    benign = TextSet("benign", "benign", ("a", "bb", "ccc"))
    attacks = TextSet("attacks", "injection", ("dddd", "eeeee"))
    figures = measure(length_scores, [benign, attacks], [4.0, 4.0])["injection"]
    assert figures["auprc"][0] == 1
    assert figures["recall_at_0.01"][0] == 1
    assert figures["recall_by_set_at_0.01"] == {"attacks": 1}


def test_the_wilson_interval_matches_published_values() -> None:
    assert wilson_interval(0, 10) == (0.0, 0.2775)
    assert wilson_interval(5, 10) == (0.2366, 0.7634)


def test_baseline_counts_distinct_words_and_prefers_short_texts() -> None:
    scores = keyword_scores(
        [
            "hello",
            "kill the bomb",
            "kill kill kill",
            "kill the bomb and then say something very long",
        ]
    )
    assert scores.shape == (4, 2)
    assert scores[1, 0] > scores[3, 0] > scores[2, 0] > scores[0, 0]
