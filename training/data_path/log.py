"""The document log: one row with one verdict for each record of the input.

The rows are divided into files by a hash of the URL (of the identifier, if there is none), and the
table `ids` names the file of each identifier, divided in the same way. A search reads three files
at most, so its time hardly grows with the log. Within a file the rows are sorted, so that the log
does not depend on the order of the input.

Records with equal source, URL and content come with the same identifier. The first of them, which
is the kept one if there is one, keeps it; the others get one from it and their number.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from training.corpus.document import ID_DIGITS, CorpusError, Stage
from training.data_path.tables import VERDICTS, Row, TableWriter, read_rows

FILE_ROWS, MAX_FILES = 20_000, 256
# Folders: the result of a corpus, the log in it, the table of identifiers in the log.
RESULT, LOG, IDS = "result", "log", "ids"
PLACES = pa.schema([pa.field("id", pa.string()), pa.field("file", pa.int16())])
SORTED_ROWS = 100_000  # in memory at once, about 100 MB


@dataclass(frozen=True)
class Entry:
    """A row of the log.

    Attributes:
        stage: "kept", or the stage that dropped the record.
        rule: rule within the stage; "" for kept documents.
        value: measured value and limit; for duplicates the identifier of the kept document; for
            kept documents the numbers of placeholders for personal data by kind.
        size: bytes of the page or text that was judged.
    """

    id: str
    url: str
    source: str
    licence: str
    date: str
    collection: str
    language: str
    size: int
    stage: str
    rule: str
    value: str


class LogWriter:
    """Divides rows over the files of the log. Use as a context manager."""

    def __init__(self, folder: Path, rows: int) -> None:
        """Open the files.

        Args:
            rows: expected number of rows, which determines the number of files.
        """
        self._folder = folder
        count = min(MAX_FILES, max(1, rows // FILE_ROWS))
        self._tables = [TableWriter(folder / f"{n:03}.parquet", VERDICTS) for n in range(count)]

    def add(self, row: Row) -> None:
        """Append a row of VERDICTS."""
        self._tables[_place(row["url"] or row["id"], len(self._tables))].add(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Complete, sort and number all files, or discard them after an exception."""
        for table in self._tables:
            table.__exit__(_kind, error, _trace)
        if error is None:
            self._sort_files()

    def _sort_files(self) -> None:
        """Sort each file, and write the table of identifiers."""
        paths = [table.path for table in self._tables]
        with ExitStack() as opened:
            ids = [
                opened.enter_context(TableWriter(self._folder / IDS / path.name, PLACES))
                for path in paths
            ]
            for file, path in enumerate(paths):
                for identifier in _sort(path):
                    place = ids[_place(identifier, len(ids))]
                    place.add({"id": identifier, "file": file})


def find(folder: Path, url_or_id: str) -> list[Entry]:
    """Return the entries of a URL or an identifier; several inputs may have the same URL.

    Raises:
        CorpusError: the folder has no log, or one of an earlier release.
    """
    files = _files(folder)
    likely = files[_place(url_or_id, len(files))]
    found = _search(likely, "url", url_or_id)
    if not found:
        if not (folder / IDS).is_dir():
            raise CorpusError(
                f"corpus: {folder.parent} was written by an earlier release; build it again",
                field="corpus",
                reason="OUTDATED",
            )
        places = _search(folder / IDS / likely.name, "id", url_or_id)
        found = [row for place in places for row in _search(files[place["file"]], "id", url_or_id)]
    return [_entry(row) for row in found]


def find_page(folder: Path, url_or_id: str) -> list[Entry]:
    """Return the entries as `find`, of the first spelling of the URL that is in the log.

    The spellings are the given one, the canonical one of the crawl, and this one with or without
    its last slash.

    Raises:
        CorpusError: as `find`.
    """
    from training.corpus.crawl.urls import spellings  # most URLs are found without

    found = find(folder, url_or_id)
    for url in () if found or "://" not in url_or_id else spellings(url_or_id)[1:]:
        found = found or find(folder, url)
    return found


def name_of(folder: Path, identifier: str) -> str:
    """Return the URL of a document, or the identifier if there is none."""
    return next((entry.url for entry in find(folder, identifier) if entry.url), identifier)


def entries(folder: Path) -> Iterator[Entry]:
    """Yield all entries of a log."""
    for file in _files(folder):
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches():
                yield from (_entry(row) for row in batch.to_pylist())


def _sort(path: Path) -> Iterator[str]:
    """Sort the rows of a file in bounded memory, and number records with the same identifier.

    Yields the identifiers.
    """
    runs: list[Iterable[Row]] = []
    files: list[Path] = []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(SORTED_ROWS):
            rows: Iterable[Row] = sorted(batch.to_pylist(), key=_place_in_file)
            if file.metadata.num_rows > SORTED_ROWS:
                files.append(path.with_name(f"{path.name}.{len(files)}"))
                with TableWriter(files[-1], VERDICTS) as run:
                    for row in rows:
                        run.add(row)
                rows = read_rows(files[-1])
            runs.append(rows)
    with TableWriter(path, VERDICTS) as table:
        number, before = 0, ""
        for row in heapq.merge(*runs, key=_place_in_file):
            id = row["id"]
            number = number + 1 if id == before else 0
            before = id
            if number:
                id = hashlib.sha256(f"{id} {number}".encode()).hexdigest()[:ID_DIGITS]
            table.add({**row, "id": id})
            yield id
    for run_file in files:
        run_file.unlink()


def _place_in_file(row: Row) -> tuple[str | int, ...]:
    # Of equal records the later ones are duplicates of their own identifier.
    rank = (row["stage"] != Stage.KEPT) + (row["value"] == row["id"])
    return row["url"], row["id"], rank, *row.values()


def _files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise CorpusError(
            f"corpus: {folder.parent} has no document log; `thumbwheel data build` writes it",
            field="corpus",
            reason="MISSING",
        )
    return files


def _search(file: Path, column: str, value: str) -> list[dict[str, Any]]:
    # Without the filters of read_table, whose import takes longer than the search.
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            if value in opened.read_row_group(group, [column])[column].to_pylist():
                rows = opened.read_row_group(group).to_pylist()
                found += [row for row in rows if row[column] == value]
    return found


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(**row)


def _place(key: str, files: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % files
