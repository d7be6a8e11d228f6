"""Comparison and table of runs of the loop in a row."""

from pathlib import Path

import pytest

from benchmarks.loop.series import preferred, table
from infra.run.embedded.layout import ROOT
from infra.simulate.users.degraded_policy import degrade
from infra.simulate.users.questions import read_questions

NANO = ROOT / "models" / "nano"
QUESTIONS = read_questions("nano").held_out[:12]


def test_equal_models_are_preferred_equally_and_a_degraded_one_is_not(tmp_path: Path) -> None:
    equal = preferred(NANO, NANO, QUESTIONS)
    assert (equal.rate, equal.low, equal.high) == (0.5, 0.5, 0.5)
    worse = preferred(degrade(NANO, tmp_path / "worse"), NANO, QUESTIONS)
    assert worse.high < 0.5
    assert worse.comparisons == 4 * len(QUESTIONS)


@pytest.mark.parametrize(("low", "positive"), [(0.51, 1), (0.5, 0)])
def test_table_counts_promotions_that_users_prefer(low: float, positive: int) -> None:
    preference = {"rate": 0.6, "low": low, "high": 0.7}
    check = {"name": "win rate", "result": "not_enough_data", "figures": {"difference": 0.02}}
    promoted = {
        "version": "nano-1",
        "incumbent": "nano-0",
        "users": {"up": 40, "down": 60},
        "result": "promoted",
        "reason": "",
        "against_before": preference,
        "against_first": preference,
        "gate": {"checks": [check]},
        "canary": {"verdict": "promote"},
    }
    stopped = {"result": "refused", "gate": None, "canary": None}
    unknown = {"against_before": None, "against_first": None}
    lines = list(table([promoted, {**promoted, **stopped, **unknown}]))
    assert lines[-1] == f"1 of 2 promoted, {positive} of them preferred to the one before"
    (row,) = [line for line in lines if line.startswith("win rate")]
    assert row.split() == ["win", "rate", "+0.020", "not", "enough", "data", "-"]
