"""The document log: sorted, each row with an identifier of its own, and searched in few files."""

import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from training.corpus.document import Stage
from training.data_path import log
from training.data_path.log import LogWriter, entries, find


def row(number: int, stage: Stage = Stage.READ, value: str = "", date: str = "") -> dict[str, Any]:
    return {
        "id": f"{number:032x}",
        "url": f"https://example.org/{number}",
        "source": "web",
        "licence": "",
        "date": date,
        "collection": "",
        "language": "",
        "size": 0,
        "stage": stage,
        "rule": "",
        "value": value,
    }


@pytest.mark.parametrize("most_rows", [3, 100], ids=["merged", "in memory"])
def test_log_depends_on_the_set_of_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_rows: int
) -> None:
    monkeypatch.setattr(log, "SORTED_ROWS", most_rows)
    rows = [row(number) for number in range(8)]
    rows += [row(3), row(3, date="2026-01-02")]
    # The kept record is not the first by its other columns.
    rows += [row(9, Stage.EXACT_DUPLICATE, f"{9:032x}"), row(9, Stage.KEPT, date="2026-01-02")]
    logs = []
    for name in ("first", "second"):
        random.Random(name).shuffle(rows)
        with LogWriter(tmp_path / name, len(rows)) as writer:
            for one in rows:
                writer.add(one)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        logs.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files})

    assert logs[0] == logs[1]
    assert sorted(logs[0]) == ["000.parquet", "ids/000.parquet"]
    found = list(entries(tmp_path / "first"))
    assert len({entry.id for entry in found}) == len(found) == len(rows)
    assert sorted(entry.url for entry in found) == sorted(one["url"] for one in rows)
    kept, repeated = find(tmp_path / "first", "https://example.org/9")
    assert (kept.id, kept.stage) == (f"{9:032x}", Stage.KEPT)
    assert repeated.value == kept.id


ROWS, FILE_ROWS = 400, 20


def numbered(number: int) -> dict[str, Any]:
    """Return a row; every fourth has no URL, and some rows share a URL."""
    url = f"https://example.org/{number % 100 if number % 100 < 2 else number}"
    return row(number) | {"url": "" if number % 4 == 3 else url, "size": number}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of several files."""
    monkeypatch.setattr(log, "FILE_ROWS", FILE_ROWS)
    with LogWriter(tmp_path, ROWS) as writer:
        for number in range(ROWS):
            writer.add(numbered(number))
    assert len(list(tmp_path.glob("*.parquet"))) == ROWS // FILE_ROWS
    return tmp_path


def test_rows_are_found_by_url_and_by_identifier(folder: Path) -> None:
    rows = [numbered(number) for number in range(ROWS)]
    assert sorted(entry.id for entry in entries(folder)) == [one["id"] for one in rows]
    for one in rows[::7]:
        assert [entry.size for entry in find(folder, one["id"])] == [one["size"]]
        if one["url"]:
            expected = [other["size"] for other in rows if other["url"] == one["url"]]
            assert sorted(entry.size for entry in find(folder, one["url"])) == expected


@pytest.mark.parametrize(
    "question",
    [numbered(5)["url"], numbered(5)["id"], numbered(7)["id"], "https://example.org/none"],
    ids=["url", "id with url", "id without url", "unknown"],
)
def test_search_reads_three_files_at_most(
    folder: Path, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    opened: set[Path] = set()
    real = pq.ParquetFile

    def counted(file: Path) -> Any:
        opened.add(file)
        return real(file)

    monkeypatch.setattr(pq, "ParquetFile", counted)
    found = find(folder, question)
    assert len(found) == int("none" not in question)
    assert 1 <= len(opened) <= 3
