"""Warnings about the figures of a stage at its end."""

from collections.abc import Mapping
from typing import Any

import pytest

from training.figures import Estimate
from training.reporting.warnings import FEWEST_HELD_OUT, measured_warnings, warnings_of
from training.runtime.context import Progress

GOOD = {"held_out_examples": 40, "held_out_loss_before": 4.3, "held_out_loss": 3.0}


def steps(*metrics: Mapping[str, float]) -> list[Progress]:
    return [Progress("stage", n, len(metrics), each) for n, each in enumerate(metrics, start=1)]


def test_good_run_has_no_warning() -> None:
    assert warnings_of(GOOD, steps({"held_out_loss": 3.0})) == []
    assert warnings_of({}, []) == []
    assert warnings_of({"held_out_prompts": 30, "held_out_accuracy": 0.5}, []) == []
    assert warnings_of(GOOD | {"held_out_loss": 4.3001}, []) == [], "rounding"


@pytest.mark.parametrize(
    ("report", "course", "figures"),
    [
        (GOOD | {"held_out_loss": 6.9}, [], ("held-out loss", "4.3", "6.9", "before training")),
        (
            {"held_out_documents": 50, "bits_per_byte": 9.5},
            [{"bits_per_byte": 5.0}, {"loss": 1.0}, {"bits_per_byte": 9.5}],
            ("bits per byte", "5", "9.5", "first measurement"),
        ),
        ({"held_out_prompts": 30, "held_out_accuracy": 0.4}, [], ("held-out accuracy", "0.4")),
        ({"held_out_examples": FEWEST_HELD_OUT - 1}, [], ("19 held-out examples", "20")),
        ({"held_out_pairs": 50, "held_out_prompts": 2}, [], ("2 held-out prompts",)),
        ({"held_out_thumbs": 0}, [], ("no held-out thumbs",)),
        (
            {},
            [
                {"score": 0.5, "zero_variance_groups": 0.5},
                {"score": 1.0, "zero_variance_groups": 1.0},
            ],
            ("no learning signal", "1 of 2", "mean 1"),
        ),
        (
            {},
            [{"score": 0.3, "score_variance": 1e-16}] * 4,
            ("no learning signal", "4 of 4", "mean 0.3"),
        ),
        (
            {},
            [{"score": 4.0, "score_variance": 1.0, "clipped_scores": 0.75}],
            ("75%", "reward.score_clip"),
        ),
    ],
)
def test_bad_run_has_one_warning_with_its_figures(
    report: Mapping[str, Any], course: list[Mapping[str, float]], figures: tuple[str, ...]
) -> None:
    (text,) = warnings_of(report, steps(*course))
    assert all(figure in text for figure in figures), text
    assert len(text.splitlines()) == 1


def test_scores_with_a_signal_in_most_updates_have_no_warning() -> None:
    lost = {"score": 1.0, "zero_variance_groups": 1.0}
    good = {"score": 0.5, "zero_variance_groups": 0.2}
    spread = {"score": 0.5, "score_variance": 0.1, "clipped_scores": 0.2}
    assert warnings_of({}, steps(lost, good, good)) == []
    assert warnings_of({}, steps(spread)) == []


def test_measurement_before_and_after_warns_of_a_fall_and_of_few_items() -> None:
    assert measured_warnings(200, Estimate(0.1, 0.01, 400, 200)) == []
    assert measured_warnings(200, Estimate(-0.01, 0.01, 400, 200)) == [], "it may be chance"
    fell, few = measured_warnings(6, Estimate(-0.25, 0.01, 12, 6))
    assert "0.25" in fell
    assert "6 held-out items" in few
