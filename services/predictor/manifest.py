"""Check of a model directory by its manifest.

The training pipeline writes manifest.json last, so a directory without the file is incomplete and
is refused.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.checkpoint import weight_files

MANIFEST_NAME = "manifest.json"
FORMAT = 1
REQUIRED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


class DigestCache:
    """SHA-256 digests of files, cached by size and modification time in one JSON file.

    A model is therefore hashed once and not at every start.
    """

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


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked model directory.

    `files` maps names to SHA-256 digests. `digest` is that of the manifest and identifies the
    content.
    """

    version: str
    directory: Path
    files: Mapping[str, str]
    digest: str


def check_manifest(directory: Path, version: str, digests: DigestCache) -> Manifest:
    """Check that the directory is complete and matches its manifest.

    Raises:
        ModelRefusedError: a file is missing or differs, or a field of the manifest is invalid; the
            text names all such files, or the field.
    """
    raw = _read(directory)
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise ModelRefusedError(
            f"{MANIFEST_NAME} is not JSON", field=MANIFEST_NAME, reason="MALFORMED"
        ) from error
    files = _check_fields(content, version)
    missing = sorted(name for name in files if not (directory / name).is_file())
    if missing:
        raise ModelRefusedError(
            f"missing files: {', '.join(missing)}", field=", ".join(missing), reason="MISSING"
        )
    unlisted = sorted(
        name for name in {*REQUIRED_FILES, *weight_files(directory)} if name not in files
    )
    if unlisted:
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: files does not list {', '.join(unlisted)}",
            field="files",
            reason="INCOMPLETE",
            limit=", ".join(unlisted),
        )
    changed = sorted(
        name for name, digest in files.items() if digests.sha256(directory / name) != digest
    )
    if changed:
        raise ModelRefusedError(
            f"files differ from {MANIFEST_NAME}: {', '.join(changed)}",
            field=", ".join(changed),
            reason="MISMATCH",
        )
    return Manifest(version, directory, files, hashlib.sha256(raw).hexdigest())


def manifest_digest(directory: Path) -> str:
    """Return the digest of the manifest without a check of the files."""
    return hashlib.sha256(_read(directory)).hexdigest()


def _read(directory: Path) -> bytes:
    if not directory.is_dir():
        raise ModelRefusedError(
            "directory: the directory does not exist", field="directory", reason="MISSING"
        )
    try:
        return (directory / MANIFEST_NAME).read_bytes()
    except FileNotFoundError as error:
        raise ModelRefusedError(
            f"{MANIFEST_NAME} is missing: not a model, or incomplete",
            field=MANIFEST_NAME,
            reason="MISSING",
        ) from error


def _check_fields(content: Any, version: str) -> dict[str, str]:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: format must be {FORMAT}",
            field="format",
            reason="UNSUPPORTED",
            limit=str(FORMAT),
        )
    if content.get("kind") != "model":
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: kind must be model",
            field="kind",
            reason="UNSUPPORTED",
            limit="model",
        )
    if content.get("version") != version:
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: version is not the requested {version}",
            field="version",
            reason="MISMATCH",
            limit=version,
        )
    files = content.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: files must map names to SHA-256 digests",
            field="files",
            reason="MALFORMED",
        )
    # Names may contain folders, since a trained adapter is in a folder next to the weights into
    # which it was merged.
    if any(
        PurePosixPath(name).is_absolute() or {"..", ""} & set(name.split("/")) for name in files
    ):
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: files must be paths inside the directory",
            field="files",
            reason="OUT_OF_RANGE",
        )
    return files
