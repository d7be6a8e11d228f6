"""The next cover, as far as its neighbours are read: the rows that stay, and what is known of those
that do not.
"""

import pyarrow as pa

from services.feedback.compaction.compactors import Replacement
from services.feedback.compaction.sifting import Sifted
from services.feedback.lake.covers import Served


class CoverDraft:
    """Neighbours that are read, in the order of the ledger."""

    def __init__(self) -> None:
        self.items: list[Served] = []
        self.sifted: list[Sifted] = []
        self.rows = self.bytes = 0

    def add(self, item: Served, sifted: Sifted) -> None:
        self.items.append(item)
        self.sifted.append(sifted)
        self.rows += sifted.rows.num_rows
        self.bytes += sifted.rows.nbytes

    @property
    def dropped(self) -> int:
        return sum(sifted.dropped for sifted in self.sifted)

    def is_worth_it(self, merge: bool) -> bool:
        """A cover that nothing is merged with and nothing is taken from would become itself."""
        is_more = len(self.items) > 1 or any(not item.is_cover for item in self.items)
        return self.dropped > 0 or (merge and is_more)

    def table(self) -> pa.Table:
        """All rows in ledger order, columns united by name."""
        return pa.concat_tables(
            [sifted.rows for sifted in self.sifted if sifted.rows.num_rows],
            promote_options="default",
        )

    def replacement(self, object_key: str, sha256: str) -> Replacement:
        oldest = [sifted.oldest_us for sifted in self.sifted if sifted.oldest_us is not None]
        return Replacement(
            replaced=self.items,
            object_key=object_key,
            sha256=sha256,
            rows=self.rows,
            duplicates=sum(sifted.duplicates for sifted in self.sifted),
            erased=sum(sifted.erased for sifted in self.sifted),
            expired=sum(sifted.expired for sifted in self.sifted),
            bytes=self.bytes,
            oldest_us=min(oldest, default=None),
            taken_back={about for sifted in self.sifted for about in sifted.taken_back},
        )
