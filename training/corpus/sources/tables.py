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
    document_id,
)
from training.corpus.sources.config import Columns, SourceConfig
from training.corpus.sources.members import open_members

BUFFER_BYTES = 256 << 10
# Texts that are in memory at the same time, by the mean length of a row group.
BATCH_BYTES = 16 << 20
MAX_BATCH_ROWS = 1024
# Bytes of a column chunk that are read at once instead of the whole chunk.
CHUNK_BUFFER_BYTES = 1 << 20
MAX_FIELD_CHARACTERS = 8192


def read_json_lines(source: SourceConfig, file: Path) -> Iterator[Item]:
    """Yield an item for each line that is not blank, or for damaged data, in order.

    Records are numbered by their lines. Lines above the limit are skipped without being held in
    memory.
    """
    row_reader = _RowReader(source, source.relative_name(file))
    limit = source.max_record_bytes
    number = 0
    with open_members(file, joined=True) as members:
        stream = io.BufferedReader(members, BUFFER_BYTES)
        while members.next_member():
            while line := stream.readline(limit + 1):
                size, is_whole = len(line), line.endswith(b"\n")
                while not is_whole and (more := stream.readline(BUFFER_BYTES)):
                    size += len(more)
                    is_whole = more.endswith(b"\n")
                if not is_whole and members.damage is not None:
                    break
                if size > limit + 1:
                    value = f"{size} bytes (at most {limit})"
                    yield row_reader.reject(number, "record size", value)
                elif line.strip():
                    yield row_reader.parse(number, line)
                number += 1
            if (damage := members.damage) is not None:
                yield row_reader.reject(number, damage.rule, damage.value)
                number += 1


def read_parquet(source: SourceConfig, file: Path) -> Iterator[Item]:
    """Yield an item for each row, in order.

    Rows of a damaged row group, and all rows of a file without a column of text, are rejected one
    by one. A file that is not Parquet is a single rejected record.
    """
    row_reader = _RowReader(source, source.relative_name(file))
    try:
        # Without memory_map pages are read in pieces of the buffer.
        table = pq.ParquetFile(
            file,
            buffer_size=CHUNK_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError):
        yield row_reader.reject(0, "parquet", "not readable")
        return
    with table:
        names = _top_names(source.columns, table.schema_arrow.names)
        number = 0
        for group in range(table.num_row_groups):
            about = table.metadata.row_group(group)
            end = number + about.num_rows
            mean_bytes = about.total_byte_size // max(1, about.num_rows) + 1
            rows = max(1, min(MAX_BATCH_ROWS, BATCH_BYTES // mean_bytes))
            try:
                batches = table.iter_batches(rows, [group], names, use_threads=False)
                for batch in batches:
                    for row in batch.to_pylist():
                        yield row_reader.convert(number, row)
                        number += 1
            except (pa.ArrowException, OSError, UnicodeDecodeError):
                for rest in range(number, end):
                    yield row_reader.reject(rest, "parquet", "damaged row group")
            number = end


def _top_names(columns: Columns, existing: Sequence[str]) -> list[str]:
    wanted = (*columns.text, *columns.url, *columns.date, *columns.licence, *columns.collection)
    tops = {name.partition(".")[0] for name in wanted}
    return [name for name in existing if name in tops or name in wanted]


class _RowReader:
    """Conversion of rows of a file into items."""

    def __init__(self, source: SourceConfig, name: str) -> None:
        self._source = source
        self._name = name

    def reject(self, number: int, rule: str, value: str) -> Rejected:
        """Return the item of a record that cannot be read."""
        identifier = document_id(self._source.name, self._name, number)
        origin = Origin(identifier, "", self._source.name, self._source.licence)
        return Rejected(origin, Verdict(Stage.READ, rule, value))

    def parse(self, number: int, line: bytes) -> Item:
        """Return the item of a line of JSON."""
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            return self.reject(number, "json", f"invalid at character {error.pos}")
        except UnicodeDecodeError as error:
            return self.reject(number, "json", f"not UTF-8 at byte {error.start}")
        except (RecursionError, ValueError):
            # Deep nesting, or a number with thousands of digits.
            return self.reject(number, "json", "beyond the limits of the parser")
        if not isinstance(row, dict):
            return self.reject(number, "json", f"{type(row).__name__} instead of an object")
        return self.convert(number, row)

    def convert(self, number: int, row: Mapping[str, object]) -> Item:
        """Return the item of a row."""
        columns = self._source.columns
        origin = Origin(
            document_id(self._source.name, self._name, number),
            _field(row, columns.url),
            self._source.name,
            _field(row, columns.licence) or self._source.licence,
            _field(row, columns.date),
            _field(row, columns.collection),
        )
        text = _first(row, columns.text)
        rule, value = "", ""
        if not isinstance(text, str):
            found = "missing" if text is None else type(text).__name__
            rule, value = "text column", f"{found} ({', '.join(columns.text)})"
        elif not text.strip():
            rule = "empty text"
        elif len(text) > self._source.max_record_bytes:
            rule = "record size"
            value = f"{len(text)} characters (at most {self._source.max_record_bytes})"
        elif (place := _surrogate(text)) >= 0:
            rule, value = "encoding", f"unpaired surrogate at character {place}"
        if rule:
            return Rejected(origin, Verdict(Stage.READ, rule, value))
        assert isinstance(text, str)
        return Document(origin, text)


def _first(row: Mapping[str, object], names: Sequence[str]) -> object:
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


def _field(row: Mapping[str, object], names: Sequence[str]) -> str:
    """Return a short text of a row; "" if it is missing, too long, or not text or a time."""
    value = _first(row, names)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str) and len(value) <= MAX_FIELD_CHARACTERS and _surrogate(value) < 0:
        return value
    return ""


def _surrogate(text: str) -> int:
    """Return the place of an unpaired surrogate, which JSON can spell but UTF-8 cannot; else -1."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return -1
