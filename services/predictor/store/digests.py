"""SHA-256 digests of files, cached by size and modification time.

A model is therefore hashed once and not at every start.
"""

import contextlib
import hashlib
import json
import threading
from pathlib import Path


class DigestCache:
    """Digests of files on this machine, stored in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[str, list[str | int]] = {}
        # An unreadable file counts as empty.
        with contextlib.suppress(FileNotFoundError, ValueError):
            known = json.loads(path.read_text())
            self._known = known if isinstance(known, dict) else {}

    def sha256(self, file: Path) -> str:
        """Return the hex digest of a file; hash again if its size, time or inode changed."""
        stat = file.stat()
        state: list[str | int] = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(str(file))
        if known is not None and known[:-1] == state:
            return str(known[-1])
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        with self._lock:
            self._known[str(file)] = [*state, digest]
            unfinished = self._path.with_suffix(".tmp")
            unfinished.write_text(json.dumps(self._known))
            unfinished.replace(self._path)
        return digest
