"""The document log: sorted, and each row with an identifier of its own."""

import random
from pathlib import Path
from typing import Any

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
        logs.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})

    assert logs[0] == logs[1]
    assert list(logs[0]) == ["000.parquet"]
    found = list(entries(tmp_path / "first"))
    assert len({entry.id for entry in found}) == len(found) == len(rows)
    assert sorted(entry.url for entry in found) == sorted(one["url"] for one in rows)
    kept, repeated = find(tmp_path / "first", "https://example.org/9")
    assert (kept.id, kept.stage) == (f"{9:032x}", Stage.KEPT)
    assert repeated.value == kept.id
