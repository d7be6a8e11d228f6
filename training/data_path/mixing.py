"""Shares of the sources in the result, and the order of its documents.

Sources with a weight are reduced until their bytes have the ratio of the weights; none is repeated.
Whether a document stays depends on its identifier alone, so that few change with the shares.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from training.data_path.tables import DOCUMENTS, Row, TableWriter, read_rows

FILE_BYTES = 64 << 20  # characters of text in a file of the result
MERGED_FILES = 256  # open at once
HASH_BYTES = 8


def shares(sizes: Mapping[str, int], weights: Mapping[str, float | None]) -> dict[str, float]:
    """Return the share of each source that stays.

    Args:
        sizes: bytes by source.
        weights: weight by source, above 0; None keeps a source whole.
    """
    weighted = {
        name: weight for name, weight in weights.items() if weight is not None and sizes.get(name)
    }
    if not weighted:
        return dict.fromkeys(sizes, 1.0)
    unit = min(sizes[name] / weight for name, weight in weighted.items())
    return {
        name: min(1.0, unit * weighted[name] / size) if name in weighted else 1.0
        for name, size in sizes.items()
    }


def stays(identifier: str, share: float, seed: int) -> bool:
    """Return True if the document is in the share of its source."""
    if share >= 1:
        return True
    digest = hashlib.sha256(f"mixing {seed} {identifier}".encode()).digest()[:HASH_BYTES]
    return int.from_bytes(digest, "big") / 2.0 ** (8 * HASH_BYTES) < share


def merged(runs: Sequence[Path], scratch: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of sorted runs in order, with at most MERGED_FILES row groups in memory."""
    level = list(runs)
    for depth in range(64):
        if len(level) <= MERGED_FILES:
            break
        groups = [level[i : i + MERGED_FILES] for i in range(0, len(level), MERGED_FILES)]
        level = []
        for number, group in enumerate(groups):
            path = scratch / f"merged-{depth}-{number:05}.parquet"
            with TableWriter(path, DOCUMENTS) as table:
                for row in heapq.merge(*map(read_rows, group), key=_key):
                    table.add(row)
            level.append(path)
    yield from heapq.merge(*map(read_rows, level), key=_key)


class DocumentFiles:
    """Writes documents into files of FILE_BYTES of text. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._table: TableWriter | None = None
        self._files = self._bytes = 0

    def add(self, row: Row) -> None:
        """Append a row of DOCUMENTS."""
        if self._table is None:
            self._table = TableWriter(self._folder / f"{self._files:05}.parquet", DOCUMENTS)
        self._table.add(row)
        self._bytes += len(row["text"])
        if self._bytes >= FILE_BYTES:
            self._end(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Complete the last file, or discard the file after an exception."""
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if self._table is not None:
            self._table.__exit__(None if error is None else type(error), error, None)
            self._table, self._files, self._bytes = None, self._files + 1, 0


def _key(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["order"], row["id"]
