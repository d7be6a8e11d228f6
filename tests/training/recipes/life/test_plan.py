"""Size of a run of the tour and the record of its steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from training.errors import ConfigError
from training.recipes.life.plan import MAX_MINUTES, MIN_MINUTES, Journal, Plan


def test_sizes_grow_with_the_minutes() -> None:
    small, usual, large = Plan(1), Plan(), Plan(60)
    assert large.pretrain_steps == 2 * usual.pretrain_steps > small.pretrain_steps
    assert large.conversations == 2 * usual.conversations


@pytest.mark.parametrize("minutes", [MIN_MINUTES / 2, MAX_MINUTES * 2, float("nan")])
def test_impossible_minutes_are_refused(minutes: float) -> None:
    with pytest.raises(ConfigError) as refused:
        Plan(minutes)
    assert refused.value.field == "minutes"


def test_finished_steps_are_skipped_and_failed_ones_repeated(tmp_path: Path) -> None:
    runs: list[str] = []

    def run(name: str) -> Mapping[str, Any]:
        runs.append(name)
        if runs == ["first", "second"]:
            raise KeyboardInterrupt
        return {"count": len(runs)}

    journal = Journal(tmp_path, Plan(1), lambda _: None)
    journal.step("first", lambda: run("first"))
    with pytest.raises(KeyboardInterrupt):
        journal.step("second", lambda: run("second"))
    again = Journal(tmp_path, Plan(1), lambda _: None)
    again.step("first", lambda: run("first"))
    again.step("second", lambda: run("second"))
    assert runs == ["first", "second", "second"]
    assert again.figures("first") == {"count": 1}
    assert again.figures("second") == {"count": 3}


def test_other_minutes_are_refused_in_the_same_folder(tmp_path: Path) -> None:
    Journal(tmp_path, Plan(1), lambda _: None).step("first", dict)
    with pytest.raises(ConfigError) as refused:
        Journal(tmp_path, Plan(2), lambda _: None)
    assert (refused.value.field, refused.value.limit) == ("minutes", "1")
