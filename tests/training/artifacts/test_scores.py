"""Scores of versions: what is written is read, and only equal items and prompts are comparable."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.artifacts.scores import (
    ENDPOINT,
    NOT_STORED,
    WEIGHTS,
    ItemScore,
    ScoredModel,
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


def test_score_of_another_model_is_replaced_only_on_demand(tmp_path: Path) -> None:
    store, ours = ScoreStore(tmp_path), replace(SCORE, model_sha256="1" * 64)
    other = replace(SCORE, value=1.0, model_sha256="2" * 64)
    assert not store.offer(SCORE, ITEMS), "of an earlier release, without a hash"
    assert not store.offer(ours, ITEMS)
    for foreign in (other, SCORE):
        assert store.offer(foreign, ITEMS).startswith(NOT_STORED)
        with refused(ScoreError, field="version", reason="CONFLICT"):
            store.require_model(
                ScoredModel("nano-1", WEIGHTS, foreign.model_sha256), ["arc_easy", "piqa"]
            )
    assert store.scores("nano-1")["piqa"] == ours
    store.require_model(ScoredModel("nano-1", WEIGHTS, ours.model_sha256), ["arc_easy", "piqa"])
    # A description by an endpoint cannot be compared with weights.
    store.require_model(ScoredModel("nano-1", ENDPOINT, other.model_sha256), ["piqa"])
    assert not store.offer(other, ITEMS, replace_model=True)
    assert store.scores("nano-1")["piqa"] == other


def test_offer_reads_only_the_score_of_its_task(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    store.write(SCORE, ITEMS)
    (tmp_path / "evaluations" / "nano-1" / "arc_easy.json").write_text("{}")
    assert not store.offer(replace(SCORE, value=1.0), ITEMS)
    assert store.score("nano-1", "piqa") == replace(SCORE, value=1.0)
    assert store.score("nano-1", "lambada") is None


@pytest.mark.parametrize("field", ["task", "metric", "items_sha256", "prompts_sha256"])
def test_scores_on_other_items_or_prompts_are_not_comparable(field: str) -> None:
    require_comparable(SCORE, replace(SCORE, version="nano-2", value=0.9))
    with refused(ScoreError, field=field):
        require_comparable(SCORE, replace(SCORE, version="nano-2", **{field: "c" * 64}))
