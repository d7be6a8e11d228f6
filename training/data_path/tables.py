"""Parquet tables of the data path, written as a whole or not at all.

Equal rows give byte-identical files: row groups have a fixed number of rows and bytes, and neither
times nor paths are written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from durable_files.files import make_directory, publish
from training.corpus.document import Origin

PARTIAL = ".partial"
# Rows and memory of their texts before they are written. Readers hold a row group for each open
# file, and `mixing` opens 256 files.
GROUP_ROWS, GROUP_BYTES = 1_000, 1 << 20

Row = Mapping[str, Any]

ORIGIN_NAMES = [field.name for field in fields(Origin)]
ORIGIN = [pa.field(name, pa.string()) for name in ORIGIN_NAMES]
# A text with its origin, after cleaning.
CLEANED = pa.schema([*ORIGIN, pa.field("language", pa.string()), pa.field("text", pa.string())])
# The result: `order` is the position in the shuffled whole, as a hash; `personal_data` has the
# numbers of placeholders by kind.
DOCUMENTS = pa.schema(
    [*CLEANED, pa.field("personal_data", pa.string()), pa.field("order", pa.uint64())]
)
# A row for each record of the input. `size` is in bytes: of the page or text that was judged.
VERDICTS = pa.schema(
    [
        *ORIGIN,
        pa.field("language", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("stage", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("value", pa.string()),
    ]
)


class TableWriter:
    """Writes rows to a file that appears under its name only when it is complete."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Open the file; an unfinished one of an interrupted run is replaced."""
        self.path = path
        self._schema = schema
        self._partial = path.with_name(path.name + PARTIAL)
        make_directory(path.parent)
        self._writer = pq.ParquetWriter(self._partial, schema, compression="zstd")
        self._rows: list[Row] = []
        self._bytes = 0

    def add(self, row: Row) -> None:
        """Append a row whose keys are the columns of the schema."""
        self._rows.append(row)
        # The memory of a string depends on its widest character: 1, 2 or 4 bytes for each.
        self._bytes += sys.getsizeof(row.get("text"))
        if len(self._rows) >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Complete the file, or discard the file after an exception in the block."""
        if error is None:
            self._flush()
        self._writer.close()
        if error is not None:
            self._partial.unlink(missing_ok=True)
            return
        publish(self._partial, self.path)

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema))
        self._rows, self._bytes = [], 0


def read_rows(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, one row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.read_row_group(group, columns=columns).to_pylist()


def count_rows(path: Path) -> int:
    """Return the number of rows from the file's footer."""
    with pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)
