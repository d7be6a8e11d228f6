"""The items of the benchmarks."""

import gzip
import json
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.benchmarks import data
from training.benchmarks.data import ItemsError, item_ids, rows


@pytest.mark.parametrize("task", ["winogrande", "openbookqa", "math500", "humaneval", "mbpp"])
def test_task_has_its_full_list_of_different_items(task: str, benchmark_data: None) -> None:
    ids = item_ids(rows(task))

    assert len(set(ids)) == len(ids) == data.SOURCES[task].items


def test_gold_answers_are_choices(benchmark_data: None) -> None:
    items = rows("openbookqa")

    assert all(item["answerKey"] in item["choices"]["label"] for item in items)
    assert not any(item["question_stem"].startswith("Question") for item in items)


def test_answers_of_math_are_those_of_the_solutions(benchmark_data: None) -> None:
    answers = [item["answer"] for item in rows("math500")]

    assert r"\left( 3, \frac{\pi}{2} \right)" in answers
    assert "32,348" in answers
    assert not [answer for answer in answers if r"\iny" in answer or not answer]


def test_repeated_items_have_different_ids() -> None:
    first, second, third = item_ids([{"text": "a"}, {"text": "b"}, {"text": "a"}])

    assert third == f"{first}-2" != second


def test_unknown_task_is_refused() -> None:
    with refused(ItemsError, field="tasks", reason="UNKNOWN", limit=", ".join(data.SOURCES)):
        rows("hellaswgag")


def test_changed_item_list_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / data.SOURCES["mbpp"].path
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt") as lines:
        lines.write(json.dumps({"doc_id": 0, "native_id": 11, "doc": {"task_id": 11}}) + "\n")
    monkeypatch.setattr(data, "installed", lambda lock: tmp_path)

    with refused(ItemsError, field="items", limit="500"):
        rows("mbpp")


@pytest.mark.parametrize("task", ["mbpp", "piqa"])
def test_missing_file_is_refused(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "installed", lambda lock: tmp_path)

    with refused(ItemsError, field=Path(data.SOURCES[task].path).name):
        rows(task)
