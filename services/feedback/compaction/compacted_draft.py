"""Draft of a compacted segment, collected from neighbouring segments."""

import pyarrow as pa

from services.feedback.compaction.compactors import Replacement
from services.feedback.compaction.row_filter import FilteredRows
from services.feedback.lake.compacted_segments import ReadableSegment


class CompactedDraft:
    """Neighbouring segments in the order of the ledger, with their filtered rows."""

    def __init__(self) -> None:
        self.items: list[ReadableSegment] = []
        self.filtered: list[FilteredRows] = []
        self.rows = self.bytes = 0

    def add(self, item: ReadableSegment, filtered: FilteredRows) -> None:
        self.items.append(item)
        self.filtered.append(filtered)
        self.rows += filtered.rows.num_rows
        self.bytes += filtered.rows.nbytes

    @property
    def dropped(self) -> int:
        return sum(filtered.dropped for filtered in self.filtered)

    def is_worthwhile(self, merge: bool) -> bool:
        """Return False if publishing would only reproduce an existing compacted segment."""
        is_more = len(self.items) > 1 or any(not item.is_compacted for item in self.items)
        return self.dropped > 0 or (merge and is_more)

    def table(self) -> pa.Table:
        """Return all rows in ledger order, with columns united by name."""
        return pa.concat_tables(
            [filtered.rows for filtered in self.filtered if filtered.rows.num_rows],
            promote_options="default",
        )

    def replacement(self, object_key: str, sha256: str) -> Replacement:
        oldest = [
            filtered.oldest_us for filtered in self.filtered if filtered.oldest_us is not None
        ]
        return Replacement(
            replaced=self.items,
            object_key=object_key,
            sha256=sha256,
            rows=self.rows,
            duplicates=sum(filtered.duplicates for filtered in self.filtered),
            erased=sum(filtered.erased for filtered in self.filtered),
            expired=sum(filtered.expired for filtered in self.filtered),
            bytes=self.bytes,
            oldest_us=min(oldest, default=None),
            retracted_answers={
                about for filtered in self.filtered for about in filtered.retracted_answers
            },
        )
