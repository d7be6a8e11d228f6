"""Cache of converted graphs on disk, and the process that converts them.

The key is the content: the digests of the model, and the source code of the converter.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from services.predictor import graph
from services.predictor.errors import ModelRefusedError
from services.predictor.graph.__main__ import REFUSED
from services.predictor.graph.checkpoint import weight_files
from services.predictor.graph.conversion import IR_NAME
from services.predictor.graph.weights import WeightFormat
from services.predictor.manifest import Manifest

Convert = Callable[[Path, Path], None]  # model directory, existing target directory


class IrCache:
    """Holds the `entries` most recently used graphs.

    `weights` is the format that `convert` writes.
    """

    def __init__(
        self,
        directory: Path,
        entries: int,
        convert: Convert,
        weights: WeightFormat = WeightFormat.U8,
    ) -> None:
        self._directory = directory
        self._entries = entries
        self._convert = convert
        self._weights = weights

    def get(self, manifest: Manifest) -> Path:
        """Return the directory of the model's IR, converted first if necessary.

        A conversion becomes visible by one rename, so a killed conversion leaves no usable entry.
        """
        names = ("config.json", *weight_files(manifest.directory))
        # The digest of the converter belongs to the key, so that a changed converter uses no
        # older graphs.
        digest = hashlib.sha256()
        for source in sorted(Path(graph.__path__[0]).glob("*.py")):
            digest.update(source.read_bytes())
        content = {
            "converter": digest.hexdigest(),
            "weights": self._weights,
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


def convert_in_process(source: Path, target: Path, weights: WeightFormat = WeightFormat.U8) -> None:
    """Run `python -m services.predictor.graph` with low priority and wait.

    In a thread, saving the IR holds the interpreter lock (0.1 s for 100 M parameters), and the
    memory of the conversion would remain allocated.

    Raises:
        ModelRefusedError: the converter refused the model, or failed.
    """
    command = [sys.executable, "-m", "services.predictor.graph", str(source), str(target), weights]
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    result = subprocess.run(  # noqa: S603 - own module and two paths, no shell
        command,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if result.returncode == REFUSED:
        raise ModelRefusedError(
            result.stderr, **json.loads(result.stdout.rpartition("\n")[2] or "{}")
        )
    if result.returncode:
        raise ModelRefusedError(f"the conversion ended with status {result.returncode}")
