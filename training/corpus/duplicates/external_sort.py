"""Sorting of fixed-size records in bounded memory: sorted runs in a file, merged by blocks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Records = npt.NDArray[np.void]

MIN_BLOCK = 64
# A sort of records needs the records, the order and a sorted copy.
COPIES = 4


class ExternalSort:
    """Records of unsigned integers, sorted by all their fields from the first to the last.

    Args:
        dtype: structured type of the records.
        path: file for the runs, removed after the merge.
        memory_bytes: memory for records; more is used only if equal values of the first field need
            it.
    """

    def __init__(self, dtype: npt.DTypeLike, path: Path, memory_bytes: int) -> None:
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        self._first = str((self._dtype.names or ("",))[0])
        self._path = path
        self._capacity = max(memory_bytes // (COPIES * self._dtype.itemsize), MIN_BLOCK)
        self._pending: list[Records] = []
        self._count = 0
        self._runs: list[int] = []  # records in each

    def add(self, *columns: npt.NDArray[np.unsignedinteger[Any]]) -> None:
        """Add records, given by a column for each field."""
        records = np.empty(len(columns[0]), dtype=self._dtype)
        for name, column in zip(self._dtype.names or (), columns, strict=True):
            records[name] = column
        while len(records):
            room = self._capacity - self._count
            self._pending.append(records[:room])
            self._count += len(self._pending[-1])
            records = records[room:]
            if self._count == self._capacity:
                self._write_run()

    def batches(self) -> Iterator[Records]:
        """Yield all records in order, and drop them; a batch never ends within equal values of the
        first field.
        """
        if not self._runs:
            if self._pending:
                yield self._sorted(self._pending)
            self._pending, self._count = [], 0
            return
        if self._pending:
            self._write_run()
        yield from self._merged()

    def _write_run(self) -> None:
        with self._path.open("ab") as file:
            self._sorted(self._pending).tofile(file)
        self._runs.append(self._count)
        self._pending, self._count = [], 0

    def _merged(self) -> Iterator[Records]:
        block = max(self._capacity // len(self._runs), MIN_BLOCK)
        ends = np.cumsum(self._runs)
        places = ends - self._runs
        buffers = [np.empty(0, dtype=self._dtype) for _ in self._runs]
        wanted = block
        with self._path.open("rb") as file:
            while (places < ends).any() or any(map(len, buffers)):
                for run, buffer in enumerate(buffers):
                    count = min(wanted - len(buffer), int(ends[run] - places[run]))
                    if count > 0:
                        file.seek(int(places[run]) * self._dtype.itemsize)
                        buffers[run] = np.concatenate(
                            [buffer, np.fromfile(file, self._dtype, count)]
                        )
                        places[run] += count
                # Unread records of a run are not below the last one of its buffer.
                unread = np.flatnonzero(places < ends)
                limit = min((buffers[run][self._first][-1] for run in unread), default=None)
                cuts = [
                    len(buffer)
                    if limit is None
                    else int(np.searchsorted(buffer[self._first], limit))
                    for buffer in buffers
                ]
                if not any(cuts):  # equal values fill a buffer
                    wanted *= 2
                    continue
                wanted = block
                batch = self._sorted([b[:cut] for b, cut in zip(buffers, cuts, strict=True)])
                buffers = [b[cut:].copy() for b, cut in zip(buffers, cuts, strict=True)]
                yield batch
        self._path.unlink()
        self._runs = []

    def _sorted(self, parts: list[Records]) -> Records:
        records = np.concatenate(parts)
        firsts = records[self._first]
        order = np.argsort(firsts)
        firsts = firsts[order]
        # The other fields decide only among equal values of the first: a sort by all takes twice
        # as long.
        equal = firsts[1:] == firsts[:-1]
        tied = np.zeros(len(records), dtype=bool)
        tied[1:] = equal
        tied[:-1] |= equal
        places = np.flatnonzero(tied)
        group = records[order[places]]
        columns = [group[name] for name in reversed(self._dtype.names or ())]
        order[places] = order[places][np.lexsort(columns)]
        return records[order]
