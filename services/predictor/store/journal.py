"""The list of loaded versions on disk; a killed predictor loads the same versions again."""

import json
from pathlib import Path


class Journal:
    """Version names and their directories in one JSON file, replaced by rename."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Path]:
        """Return the versions at the last end of the process; empty for an unreadable file."""
        try:
            content = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {name: Path(directory) for name, directory in content.items()}

    def add(self, name: str, directory: Path) -> None:
        """Record a version that became ready."""
        self._write({**self.read(), name: directory})

    def remove(self, name: str) -> None:
        """Remove a version at its unload."""
        self._write({known: directory for known, directory in self.read().items() if known != name})

    def _write(self, content: dict[str, Path]) -> None:
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(
            json.dumps({name: str(directory) for name, directory in content.items()})
        )
        unfinished.replace(self._path)
