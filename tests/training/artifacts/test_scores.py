"""Scores of versions: what is written is read, and only equal items and prompts are comparable."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.artifacts.scores import (
    ItemScore,
    ScoreError,
    ScoreStore,
    TaskScore,
    require_comparable,
)

SCORE = TaskScore("nano-1", "piqa", "acc_norm", 0.5, 0.35, 2, "a" * 64, "b" * 64, chance=0.5)
ITEMS = [ItemScore("0", 1.0), ItemScore("1", 0.0)]


def test_a_score_and_its_items_are_read_as_written(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    store.write(SCORE, ITEMS)
    assert store.scores("nano-1") == {"piqa": SCORE}
    assert store.items("nano-1", "piqa") == ITEMS
    assert store.versions() == ["nano-1"]
    assert store.scores("nano-2") == {}


def test_a_second_score_replaces_the_first(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    store.write(SCORE, ITEMS)
    store.write(replace(SCORE, value=1.0, items=1), ITEMS[:1])
    assert store.scores("nano-1")["piqa"].value == 1.0
    assert store.items("nano-1", "piqa") == ITEMS[:1]


@pytest.mark.parametrize("task", ["", "../x", "A", "a" * 65])
def test_a_task_name_cannot_leave_the_folder(tmp_path: Path, task: str) -> None:
    with refused(ScoreError, field="task"):
        ScoreStore(tmp_path).write(replace(SCORE, task=task), ITEMS)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    store.write(SCORE, ITEMS)
    (tmp_path / "evaluations" / "nano-1" / "piqa.json").write_text("{}")
    with refused(ScoreError, field="piqa.json"):
        store.scores("nano-1")


@pytest.mark.parametrize("field", ["task", "metric", "items_sha256", "prompts_sha256"])
def test_scores_on_other_items_or_prompts_are_not_comparable(field: str) -> None:
    require_comparable(SCORE, replace(SCORE, version="nano-2", value=0.9))
    with refused(ScoreError, field=field):
        require_comparable(SCORE, replace(SCORE, version="nano-2", **{field: "c" * 64}))
