"""Which rows compaction leaves out: repeated events, what was erased or taken back, what is past
its days. All in columns.

A turn that takes an answer back stays longer than the rows of the answer, which lie in other
objects too: until a day after it would expire, so that no reader ever finds them without it.
"""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from services.feedback.lake.retracted import FindRetracted, retracted_rows

TIME_COLUMNS = ("accept_time", "finish_time")
RETRACTION_KEEP_US = 86_400 * 1_000_000


class ErasedRows(Protocol):
    """What was erased up to a moment. Later erasures are the next pass's."""

    @property
    def through_sequence(self) -> int | None:
        """Rows of sequences up to this one may be gone and still be stored; None: nobody waits for
        a rewriting.
        """

    def mask(self, rows: pa.Table) -> pa.BooleanArray:
        """True where a row is gone. `rows` has the columns of its files and `sequence`; it may have
        no other and no rows.
        """

    def mark_rewritten(self) -> None:
        """No object of the stream holds such a row any more, not even one that no reader is given."""


@dataclass(frozen=True)
class FilteredRows:
    """The rows that stay, and how many do not, each counted once. `oldest_us` of the rows expires
    first; None: there is no row.

    `taken_back`: principals and answers of the rows that went because the answer was taken back;
        they are among the erased.
    """

    rows: pa.Table
    duplicates: int
    erased: int
    expired: int
    oldest_us: int | None
    retracted_answers: frozenset[tuple[str, str]] = frozenset()

    @property
    def dropped(self) -> int:
        return self.duplicates + self.erased + self.expired


class RowFilter:
    """For one run: of each event id the first row counts. Rows from before `cutoff_us` are expired;
    0: none ever is.
    """

    def __init__(
        self, erased_rows: ErasedRows, find_retracted: FindRetracted, cutoff_us: int
    ) -> None:
        self._erased_rows, self._find_retracted, self._cutoff_us = (
            erased_rows,
            find_retracted,
            cutoff_us,
        )
        self._seen: set[str] = set()

    def filter(self, rows: pa.Table) -> FilteredRows:
        """The next rows in the order of the ledger."""
        if not rows.num_rows:
            return FilteredRows(rows, 0, 0, 0, None)
        first = self._first(rows)
        unique = rows.filter(first)
        retracted = retracted_rows(unique, self._find_retracted)
        alive = unique.filter(pc.invert(pc.or_(self._erased_rows.mask(unique), retracted)))
        times = _expiring_us(alive)
        kept = pc.greater_equal(times, self._cutoff_us)
        remaining = alive.filter(kept)
        oldest_us = pc.min(times.filter(kept)).as_py()
        return FilteredRows(
            remaining,
            duplicates=rows.num_rows - unique.num_rows,
            erased=unique.num_rows - alive.num_rows,
            expired=alive.num_rows - remaining.num_rows,
            oldest_us=oldest_us,
            retracted_answers=_answers(unique.filter(retracted)),
        )

    def _first(self, rows: pa.Table) -> pa.BooleanArray:
        found = []
        for event_id in rows["event_id"].to_pylist():
            found.append(event_id not in self._seen)
            self._seen.add(event_id)
        return pa.array(found, pa.bool_())


def _answers(rows: pa.Table) -> frozenset[tuple[str, str]]:
    return frozenset(
        zip(rows["principal"].to_pylist(), rows["message_id"].to_pylist(), strict=True)
    )


def _expiring_us(rows: pa.Table) -> pa.ChunkedArray:
    """The time of each row that its days count from."""
    (column,) = (name for name in TIME_COLUMNS if name in rows.column_names)
    times = rows[column].cast(pa.int64())
    if "erased" not in rows.column_names:
        return times
    is_retraction = pc.fill_null(rows["erased"], False)
    return pc.add(times, pc.multiply(is_retraction.cast(pa.int64()), RETRACTION_KEEP_US))
