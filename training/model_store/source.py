"""Sources of an import: a directory here, a bucket and the hub in modules of their own.

The files of a source are untrusted. A file is accepted if its content has the fingerprint that the
source states.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from training.artifacts.manifest import MANIFEST, hash_file
from training.errors import DetailedError
from training.model.tensor_files import INDEX, PICKLES, WEIGHTS

# Code, pickles, and folders with copies in other formats stay out.
SMALL_FILES = ("*.json", "*.jinja", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "README.md")
SAFETENSORS = ".safetensors"
PARTIAL = ".partial"
STATE = "import.json"  # files of an unfinished import, with their fingerprints by kind
SHA256, GIT, ETAG = "sha256", "git", "etag"


class ModelImportError(DetailedError, ValueError):
    """A model cannot be imported; `field` is the option, file or field that is wrong."""

    reason = "INVALID_MODEL"


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    Args:
        size: in bytes.
        fingerprint: `sha256:HEX`, `git:HEX` (the id of a blob), `etag:TEXT` (not comparable with
            content), or "" if the source computes it on request.
    """

    name: str
    size: int
    fingerprint: str = ""

    @property
    def is_weights(self) -> bool:
        return self.name.endswith(SAFETENSORS)


class Source(Protocol):
    """Origin of a model's files. `name` is stored in the manifest."""

    @property
    def name(self) -> str: ...

    def files(self) -> Sequence[SourceFile]:
        """Return the files at the top of the source."""
        ...

    def fingerprint(self, file: SourceFile) -> str:
        """Return the fingerprint of a file."""
        ...

    def fetch(self, file: SourceFile, into: Path) -> None:
        """Write the file into a folder."""
        ...


class DirectorySource:
    """A folder on this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.name = str(directory)

    def files(self) -> Sequence[SourceFile]:
        """Return the files at the top of the folder, links included."""
        paths = sorted(path for path in self._directory.iterdir() if path.is_file())
        return [SourceFile(path.name, path.stat().st_size) for path in paths]

    def fingerprint(self, file: SourceFile) -> str:
        """Return the sha256 of the file."""
        return f"{SHA256}:{hash_file(self._content(file))}"

    def fetch(self, file: SourceFile, into: Path) -> None:
        """Copy the file. A link would let a later change of the source change the version."""
        partial = into / f"{file.name}{PARTIAL}"
        shutil.copyfile(self._content(file), partial)
        partial.replace(into / file.name)

    def _content(self, file: SourceFile) -> Path:
        """Return the path of the content, which for a link is its target.

        The cache of the hub links `snapshots/REVISION/NAME` to `blobs/HASH`; other links must stay
        in the folder, since their targets would be published with the version.

        Raises:
            ModelImportError: the file is a link out of the folder.
        """
        folder = self._directory.resolve()
        path = (folder / file.name).resolve()
        is_cached = folder.parent.name == "snapshots" and (
            path.parent == folder.parent.parent / "blobs"
        )
        if not path.is_relative_to(folder) and not is_cached:
            raise ModelImportError(
                f"{file.name}: is a link out of {self._directory}; copy its target there",
                field=file.name,
                reason="UNSUPPORTED",
                limit="a file of the folder",
            )
        return path


def select_small_files(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return configuration, tokenizer, template and licence."""
    return [
        file
        for file in files
        if "/" not in file.name
        and file.name not in (MANIFEST, STATE)
        and any(fnmatch(file.name, pattern) for pattern in SMALL_FILES)
    ]


def select_weights(files: Sequence[SourceFile], shards: Sequence[str] | None) -> list[SourceFile]:
    """Return the weight files.

    Args:
        shards: the names in the index of the weights; None without an index.

    Raises:
        ModelImportError: there are no safetensors, or a file that the index names is missing.
    """
    by_name = {file.name: file for file in files}
    if shards is None and WEIGHTS not in by_name:
        pickles = sorted(name for name in by_name if Path(name).suffix in PICKLES)
        held = f", only {pickles[0]}; loading a pickle executes code" if pickles else ""
        raise ModelImportError(
            f"{WEIGHTS}: is missing{held}",
            field=pickles[0] if pickles else WEIGHTS,
            reason="UNSUPPORTED" if pickles else "MISSING",
            limit=SAFETENSORS,
        )
    names = [WEIGHTS] if shards is None else sorted({*shards})
    for name in names:
        if "/" in name or not name.endswith(SAFETENSORS):
            raise ModelImportError(
                f"{INDEX}: {name!r} is not the name of a safetensors file beside it",
                field=name,
                reason="UNSUPPORTED",
                limit=SAFETENSORS,
            )
        if name not in by_name:
            raise ModelImportError(
                f"{INDEX}: names {name}, which is missing", field=name, reason="MISSING"
            )
    return [by_name[name] for name in names]


def has_fingerprint(path: Path, fingerprint: str, size: int) -> bool:
    """Compare a fetched file with the fingerprint of its source."""
    kind, _, value = fingerprint.partition(":")
    if path.stat().st_size != size:
        return False
    if kind == SHA256:
        return hash_file(path) == value
    if kind == GIT:
        return git_blob_id(path) == value
    return kind == ETAG


def git_blob_id(path: Path) -> str:
    """Return the id that git gives to the content of a small file, which is a SHA-1."""
    content = path.read_bytes()
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()
