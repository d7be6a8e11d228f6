"""Filter of rows during compaction: repeated, erased, retracted and expired rows go.

All operations are columnar. A turn that retracts an answer stays one day longer than its expiry.
Rows of the answer in other objects expire earlier, so no reader finds them without the retraction.
"""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from services.feedback.lake.removed_rows import FindRetracted, retracted_rows

TIME_COLUMNS = ("accept_time", "finish_time")
RETRACTION_KEEP_US = 86_400 * 1_000_000


class ErasedRows(Protocol):
    """Rows erased up to a moment; later erasures belong to the next pass."""

    @property
    def through_sequence(self) -> int | None:
        """Last sequence of segments with erased rows in objects; None without such segments."""

    def mask(self, rows: pa.Table) -> pa.BooleanArray:
        """Return a mask of the erased rows.

        Args:
            rows: Table with the columns of its files and `sequence`; may be empty and without other
                columns.
        """

    def mark_rewritten(self) -> None:
        """Record that no object of the stream, orphans included, contains such a row."""


@dataclass(frozen=True)
class FilteredRows:
    """Remaining rows, and the number of removed rows by reason, each row counted once.

    `oldest_us` is the time of the row that expires first, or None without rows. `retracted_answers`
    holds principals and answers of rows removed because of a retracted answer; these rows are
    counted as erased.
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
    """Row filter for one run, with the first row of each event id as the valid one.

    Args:
        cutoff_us: Rows from before this time are expired; 0 disables expiry.
    """

    def __init__(
        self, erased_rows: ErasedRows, find_retracted: FindRetracted, cutoff_us: int
    ) -> None:
        self._erased_rows = erased_rows
        self._find_retracted = find_retracted
        self._cutoff_us = cutoff_us
        self._seen: set[str] = set()

    def filter(self, rows: pa.Table) -> FilteredRows:
        """Filter the next rows in the order of the ledger."""
        if not rows.num_rows:
            return FilteredRows(rows, 0, 0, 0, None)
        is_first = []
        for event_id in rows["event_id"].to_pylist():
            is_first.append(event_id not in self._seen)
            self._seen.add(event_id)
        unique = rows.filter(pa.array(is_first, pa.bool_()))
        retracted = retracted_rows(unique, self._find_retracted)
        alive = unique.filter(pc.invert(pc.or_(self._erased_rows.mask(unique), retracted)))
        # Retention counts from the time column; rows of retractions stay longer.
        (column,) = (name for name in TIME_COLUMNS if name in alive.column_names)
        times = alive[column].cast(pa.int64())
        if "erased" in alive.column_names:
            is_retraction = pc.fill_null(alive["erased"], False)
            times = pc.add(times, pc.multiply(is_retraction.cast(pa.int64()), RETRACTION_KEEP_US))
        kept = pc.greater_equal(times, self._cutoff_us)
        remaining = alive.filter(kept)
        oldest_us = pc.min(times.filter(kept)).as_py()
        retractions = unique.filter(retracted)
        return FilteredRows(
            remaining,
            duplicates=rows.num_rows - unique.num_rows,
            erased=unique.num_rows - alive.num_rows,
            expired=alive.num_rows - remaining.num_rows,
            oldest_us=oldest_us,
            retracted_answers=frozenset(
                zip(
                    retractions["principal"].to_pylist(),
                    retractions["message_id"].to_pylist(),
                    strict=True,
                )
            ),
        )
