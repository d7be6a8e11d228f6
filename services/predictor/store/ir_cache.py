"""Cache of converted graphs on disk.

The key is the content: the digests of the model, and the source code of the converter.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from services.predictor import graph
from services.predictor.graph.checkpoint import weight_files
from services.predictor.graph.conversion import IR_NAME
from services.predictor.store.manifest import Manifest

Convert = Callable[[Path, Path], None]  # model directory, existing target directory


class IrCache:
    """Holds the `entries` most recently used graphs."""

    def __init__(self, directory: Path, entries: int, convert: Convert) -> None:
        self._directory = directory
        self._entries = entries
        self._convert = convert

    def get(self, manifest: Manifest) -> Path:
        """Return the directory of the model's IR, converted first if necessary.

        A conversion becomes visible by one rename, so a killed conversion leaves no usable entry.
        """
        # The digest of the converter belongs to the key, so that a changed converter uses no
        # older graphs.
        names = ("config.json", *weight_files(manifest.directory))
        # Return the digest of the converter, so that a changed converter uses no older graphs.
        digest = hashlib.sha256()
        for source in sorted(Path(graph.__path__[0]).glob("*.py")):
            digest.update(source.read_bytes())
        content = {
            "converter": digest.hexdigest(),
            **{name: manifest.files[name] for name in names},
        }
        target = (
            self._directory
            / hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
        )
        if not (target / IR_NAME).is_file():
            with tempfile.TemporaryDirectory(
                dir=self._directory, prefix="unfinished-"
            ) as unfinished:
                converted = Path(unfinished) / "ir"
                converted.mkdir()
                self._convert(manifest.directory, converted)
                shutil.rmtree(target, ignore_errors=True)
                converted.replace(target)
        os.utime(target)
        # Delete the least recently used graphs. A served graph keeps working, since Linux keeps a
        # mapped file until the mapping is closed.
        finished = [path for path in self._directory.iterdir() if (path / IR_NAME).is_file()]
        finished.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in finished[self._entries :]:
            shutil.rmtree(path)
        return target
