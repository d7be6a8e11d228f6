"""Which versions are loaded, on disk: a predictor that was killed comes back with what it served."""

import json
from pathlib import Path


class Journal:
    """Version names and their directories, in one small JSON file, replaced by rename."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Path]:
        """What was loaded when the process ended. A file that cannot be read is an empty one."""
        try:
            content = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {name: Path(directory) for name, directory in content.items()}

    def add(self, name: str, directory: Path) -> None:
        """A version became ready."""
        self._write({**self.read(), name: directory})

    def remove(self, name: str) -> None:
        """Somebody asked for a version to go."""
        self._write({known: directory for known, directory in self.read().items() if known != name})

    def _write(self, content: dict[str, Path]) -> None:
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(
            json.dumps({name: str(directory) for name, directory in content.items()})
        )
        unfinished.replace(self._path)
