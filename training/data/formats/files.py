"""Objects of a data file: JSON lines, one JSON array, both also with gzip, or Parquet.

Lines and Parquet are read in pieces; an array is parsed as a whole.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from training.data.formats.fields import ExampleError, Row

FILES_HELP = ".jsonl (also .gz), a .json array, or .parquet"
BATCH_ROWS = 256  # of a .parquet file in memory

# A row by its number from 1, or the reason why it cannot be read.
Numbered = tuple[int, Row | ExampleError]


def read_objects(path: Path) -> Iterator[Numbered]:
    """Yield the objects of a file in order.

    The ending decides between Parquet, gzip and text; text with [ at its start is an array.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path)
        return
    number = 0
    try:
        is_packed = path.suffix.lower() == ".gz"
        with cast("IO[bytes]", gzip.open(path)) if is_packed else path.open("rb") as stream:
            if stream.peek(1)[:1] == b"[":  # type: ignore[attr-defined]
                yield from _array_rows(stream.read())
                return
            for number, line in enumerate(stream, start=1):
                yield number, _parsed(line)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        yield number + 1, ExampleError("the gzip data is damaged", reason="MALFORMED")


def _array_rows(content: bytes) -> Iterator[Numbered]:
    values = _json(content)
    if isinstance(values, ExampleError):
        yield 1, ExampleError(f"a file that begins with [: {values}", reason=values.reason)
    elif isinstance(values, list):
        yield from ((number, _object(value)) for number, value in enumerate(values, start=1))


def _parsed(line: bytes) -> Row | ExampleError:
    if not line.strip():
        return ExampleError("empty", reason="EMPTY")
    value = _json(line)
    return value if isinstance(value, ExampleError) else _object(value)


def _json(content: bytes) -> object:
    """Return the value, or the error of invalid JSON."""
    try:
        return json.loads(content.decode())
    except UnicodeDecodeError as error:
        return ExampleError(f"not UTF-8 at byte {error.start + 1}", reason="NOT_UTF8")
    except (ValueError, RecursionError):  # also numbers of thousands of digits
        return ExampleError("not JSON; one object a line", reason="MALFORMED")


def _object(value: object) -> Row | ExampleError:
    """Return the fields of an object without nulls: tables write absent fields as null."""
    if not isinstance(value, dict):
        return ExampleError("not a JSON object; one a line", reason="WRONG_TYPE")
    return {name: field for name, field in value.items() if field is not None}


def _parquet_rows(path: Path) -> Iterator[Numbered]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with path.open("rb") as opened:
        try:
            with pq.ParquetFile(opened) as table:
                for batch in table.iter_batches(BATCH_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, _object(row)
        except (pa.ArrowException, OSError):
            yield number + 1, ExampleError("not Parquet, or damaged", reason="MALFORMED")
