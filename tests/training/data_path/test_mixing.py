"""Shares of sources, and the order of the documents."""

import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from training.data_path import mixing
from training.data_path.finish import order_of
from training.data_path.mixing import DocumentFiles, merged, shares, stays
from training.data_path.tables import DOCUMENTS, GROUP_BYTES, TableWriter, read_rows


def row(number: int, source: str = "a", text: str = "text") -> dict[str, Any]:
    identifier = f"{number:032x}"
    return {
        "id": identifier,
        "url": "",
        "source": source,
        "licence": "",
        "date": "",
        "collection": "",
        "language": "en",
        "text": text,
        "order": order_of(identifier, seed=0),
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with TableWriter(path, DOCUMENTS) as table:
        for one in sorted(rows, key=lambda one: one["order"]):
            table.add(one)
    return path


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": None, "b": None}, {"a": 1.0, "b": 1.0}),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 0.25}),
        ({"a": 3.0, "b": 4.0}, {"a": 1.0, "b": 1 / 3}),
        ({"a": 1.0, "b": 8.0}, {"a": 0.5, "b": 1.0}),
        ({"a": None, "b": 2.0}, {"a": 1.0, "b": 1.0}),
    ],
    ids=["no weights", "equal", "3 to 4", "the larger is short", "one weight"],
)
def test_no_source_is_repeated(
    weights: dict[str, float | None], expected: dict[str, float]
) -> None:
    assert shares({"a": 100, "b": 400}, weights) == pytest.approx(expected)


def test_a_source_without_documents_has_no_influence() -> None:
    assert shares({"a": 100}, {"a": 1.0, "b": 1.0}) == {"a": 1.0}


def test_documents_of_a_smaller_share_are_part_of_a_larger_one() -> None:
    identifiers = [f"{number:032x}" for number in range(4000)]
    small = {one for one in identifiers if stays(one, 0.25, seed=1)}
    large = {one for one in identifiers if stays(one, 0.5, seed=1)}

    assert small < large
    assert len(small) == pytest.approx(1000, abs=150)
    assert all(stays(one, 1.0, seed=1) for one in identifiers)


def test_runs_are_merged_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "MERGED_FILES", 3)
    rows = [row(number) for number in range(70)]
    runs = [write(tmp_path / f"{n:02}.parquet", rows[n::10]) for n in range(10)]

    found = [one["order"] for one in merged(runs, tmp_path / "scratch")]

    assert found == sorted(one["order"] for one in rows)


def test_documents_are_divided_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixing, "FILE_BYTES", 10)
    with DocumentFiles(tmp_path) as files:
        for number in range(5):
            files.add(row(number, text="abcdef"))

    found = [[one["id"][-1] for one in read_rows(path)] for path in sorted(tmp_path.iterdir())]
    assert found == [["0", "1"], ["2", "3"], ["4"]]


def test_interrupted_file_does_not_appear(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), DocumentFiles(tmp_path) as files:
        files.add(row(1))
        raise KeyboardInterrupt

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", ["a", "я", "語", "😀"])
def test_readers_hold_a_megabyte_of_each_run(tmp_path: Path, letter: str) -> None:
    path = write(tmp_path / "run.parquet", [row(n, text=letter * 10_000) for n in range(300)])

    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(n)["text"] for n in range(file.num_row_groups)]
    memory = [sum(sys.getsizeof(text.as_py()) for text in group) for group in groups]
    assert max(memory) < 1.1 * GROUP_BYTES
    assert min(memory[:-1]) >= GROUP_BYTES
