"""Readers for JSON lines and Parquet, the formats of C4, Dolma, RefinedWeb and FineWeb."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from training.corpus.document import (
    Document,
    Item,
    Origin,
    Rejected,
    Stage,
    Verdict,
    find_surrogate,
)
from training.corpus.sources.config import SourceConfig
from training.corpus.sources.members import open_members
from training.corpus.sources.parquet_pages import PageHeaderError, largest_page

BUFFER_BYTES = 256 << 10
# Texts that are in memory at the same time, by the mean length of a row group.
BATCH_BYTES = 16 << 20
MAX_BATCH_ROWS = 64
# Arrow needs four times the size of a page. Writers end a page at 1 MB, or after a longer text.
MAX_PAGE_BYTES = 128 << 20
# Bytes of a column chunk that are read at once instead of the whole chunk.
CHUNK_BUFFER_BYTES = 1 << 20
# Alpaca is a single array of 23 MB.
ARRAY_BYTES = 64 << 20
MAX_FIELD_CHARACTERS = 8192


# A row of a table by its number, or the reason why it cannot be read.
Row = tuple[int, Mapping[str, object] | Verdict]


def read_json_lines(source: SourceConfig, file: Path) -> Iterator[Item]:
    """Yield an item for each line that is not blank, or for damaged data, in order."""
    for _, row in json_rows(file, source.max_record_bytes):
        yield _item(source, row)


def read_parquet(source: SourceConfig, file: Path) -> Iterator[Item]:
    """Yield an item for each row, in order; a file that is not Parquet is a single record."""
    columns = source.columns
    wanted = (*columns.text, *columns.url, *columns.date, *columns.licence, *columns.collection)
    for _, row in parquet_rows(file, wanted):
        yield _item(source, row)


def json_rows(file: Path, limit: int) -> Iterator[Row]:
    """Yield the objects of a file of JSON lines, numbered by their lines.

    Lines above the limit in bytes are skipped without being held in memory. A file with the ending
    .json may also be an array of at most `ARRAY_BYTES`.
    """
    with open_members(file, joined=True) as members:
        stream = io.BufferedReader(members, BUFFER_BYTES)
        number = 0
        while members.next_member():
            if not number and ".json" in file.suffixes and stream.peek(1)[:1] == b"[":
                yield from _array_rows(stream)
                return
            while line := stream.readline(limit + 1):
                size, is_whole = len(line), line.endswith(b"\n")
                while not is_whole and (more := stream.readline(BUFFER_BYTES)):
                    size += len(more)
                    is_whole = more.endswith(b"\n")
                if not is_whole and members.damage is not None:
                    break
                if size > limit + 1:
                    value = f"{size} bytes (at most {limit})"
                    yield number, Verdict(Stage.READ, "record size", value)
                elif line.strip():
                    yield number, _checked_object(_parse(line))
                number += 1
            if members.damage is not None:
                yield number, members.damage
                number += 1


def _array_rows(stream: io.BufferedIOBase) -> Iterator[Row]:
    content = stream.read(ARRAY_BYTES + 1)
    if len(content) > ARRAY_BYTES:
        value = f"an array above {ARRAY_BYTES >> 20} MiB; write one object a line"
        yield 0, Verdict(Stage.READ, "json", value)
        return
    rows = _parse(content)
    if not isinstance(rows, list):
        yield 0, _checked_object(rows)
        return
    for number, row in enumerate(rows):
        yield number, _checked_object(row)


def _parse(line: bytes) -> object:
    """Return the value of a line of JSON, or the verdict on the line."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return Verdict(Stage.READ, "json", f"invalid at character {error.pos}")
    except UnicodeDecodeError as error:
        return Verdict(Stage.READ, "json", f"not UTF-8 at byte {error.start}")
    except (RecursionError, ValueError):
        # Deep nesting, or a number with thousands of digits.
        return Verdict(Stage.READ, "json", "beyond the limits of the parser")


def _checked_object(row: object) -> Mapping[str, object] | Verdict:
    if isinstance(row, dict | Verdict):
        return row
    return Verdict(Stage.READ, "json", f"{type(row).__name__} instead of an object")


def parquet_rows(file: Path, wanted: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of a Parquet file.

    Rows of a damaged row group are reported one by one.

    Args:
        wanted: names of columns, with dots for columns inside of others; empty reads all.
    """
    try:
        # Without memory_map pages are read in pieces of the buffer.
        table = pq.ParquetFile(
            file,
            buffer_size=CHUNK_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError):
        yield 0, Verdict(Stage.READ, "parquet", "not readable")
        return
    with table:
        tops = {name.partition(".")[0] for name in wanted} | set(wanted)
        names = [name for name in table.schema_arrow.names if not wanted or name in tops]
        number = 0
        for group in range(table.num_row_groups):
            end = number + table.metadata.row_group(group).num_rows
            verdict = Verdict(Stage.READ, "parquet", "damaged row group")
            try:
                for batch in _batches(table, file, group, names):
                    for row in batch.to_pylist():
                        yield number, row
                        number += 1
            except _LargePageError as error:
                verdict = Verdict(Stage.READ, "parquet page", str(error))
            except (pa.ArrowException, OSError, UnicodeDecodeError, PageHeaderError):
                pass
            for rest in range(number, end):
                yield rest, verdict
            number = end


class _LargePageError(Exception):
    """Error for a page that needs too much memory, with its size."""


def _batches(
    table: pq.ParquetFile, file: Path, group: int, names: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a row group in batches of bounded size.

    Raises:
        _LargePageError: a page is too large.
        PageHeaderError: a page cannot be found.
    """
    about = table.metadata.row_group(group)
    with file.open("rb") as opened:
        for place in range(about.num_columns):
            chunk = about.column(place)
            path = chunk.path_in_schema
            if path not in names and path.partition(".")[0] not in names:
                continue
            start = chunk.dictionary_page_offset or chunk.data_page_offset
            page = largest_page(opened, start, chunk.total_compressed_size)
            if page > MAX_PAGE_BYTES:
                raise _LargePageError(f"{page >> 20} MiB (at most {MAX_PAGE_BYTES >> 20})")
    mean_bytes = about.total_byte_size // max(1, about.num_rows) + 1
    rows = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // mean_bytes))
    yield from table.iter_batches(rows, [group], names, use_threads=False)


def _item(source: SourceConfig, row: Mapping[str, object] | Verdict) -> Item:
    """Return the document in a row, or the reason why there is none."""
    if isinstance(row, Verdict):
        return Rejected(Origin("", "", source.name, source.licence), row)
    columns = source.columns
    origin = Origin(
        "",
        field_of(row, columns.url),
        source.name,
        field_of(row, columns.licence) or source.licence,
        field_of(row, columns.date),
        field_of(row, columns.collection),
    )
    text = first_of(row, columns.text)
    limit = source.max_record_bytes
    rule, value = "", ""
    if not isinstance(text, str):
        found = "missing" if text is None else type(text).__name__
        rule, value = "text column", f"{found} ({', '.join(columns.text)})"
    elif not text.strip():
        rule = "empty text"
    elif len(text) > limit:
        rule, value = "record size", f"{len(text)} characters (at most {limit})"
    elif (place := find_surrogate(text)) >= 0:
        rule, value = "encoding", f"unpaired surrogate at character {place}"
    if rule:
        return Rejected(origin, Verdict(Stage.READ, rule, value))
    assert isinstance(text, str)
    return Document(origin, text)


def first_of(row: Mapping[str, object], names: Sequence[str]) -> object:
    """Return the value of the first column that the row has; None if there is none."""
    for name in names:
        value: object = row
        if name in row:
            value = row[name]
        else:
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def field_of(row: Mapping[str, object], names: Sequence[str]) -> str:
    """Return a short text of a row; "" if it is missing, too long, or not text or a time."""
    value = first_of(row, names)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str) and len(value) <= MAX_FIELD_CHARACTERS and find_surrogate(value) < 0:
        return value
    return ""
