"""Set of event ids in a temporary file, with constant memory for any number of ids."""

import sqlite3
from collections.abc import Collection

# Up to about a million ids stay in memory. TMPDIR selects the folder for the rest.
CACHE_KIB = 65_536


class ProcessedIds:
    """Growing set of event ids."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("")
        for setting in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE seen (event_id TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, event_ids: Collection[str]) -> bool:
        """Add ids and return True if all of them are new."""
        before = self._connection.total_changes
        rows = ((event_id,) for event_id in sorted(event_ids))
        self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", rows)
        return self._connection.total_changes - before == len(event_ids)

    def close(self) -> None:
        """Close and delete the temporary file."""
        self._connection.close()
