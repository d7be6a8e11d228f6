"""Event ids that were met, in a file without a name that goes with the process: memory stays the
same however many there are.
"""

import sqlite3
from collections.abc import Collection

# Up to about a million ids nothing is written. TMPDIR says where the rest goes.
CACHE_KIB = 65_536


class ProcessedIds:
    """A set that only grows."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("")
        for setting in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE seen (event_id TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, event_ids: Collection[str]) -> bool:
        """Whether each of them is met for the first time."""
        before = self._connection.total_changes
        rows = ((event_id,) for event_id in sorted(event_ids))
        self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", rows)
        return self._connection.total_changes - before == len(event_ids)

    def close(self) -> None:
        """Forget them."""
        self._connection.close()
