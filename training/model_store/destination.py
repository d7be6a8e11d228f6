"""Destinations of an import: a folder with one directory for each version, or an object store.

An import is prepared in a draft folder. The state of the draft names the complete files, so that an
interrupted import continues with the others.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from durable_files.files import make_directory, publish, sync_tree, write_json
from training.artifacts.manifest import MANIFEST, Manifest, read_manifest, save_manifest
from training.model_store.bucket import ModelBucket
from training.model_store.source import PARTIAL, STATE

MARGIN_BYTES = 64 << 20  # left free on the disk


@dataclass
class Draft:
    """Unfinished import of a version.

    Args:
        folder: where files are fetched to.
        files: fingerprints of the complete files, by name and kind.
    """

    folder: Path
    files: dict[str, dict[str, str]] = field(default_factory=dict)


class Destination(Protocol):
    """Folder or object store that versions are imported into."""

    def manifest(self, version: str) -> Manifest | None:
        """Return the manifest of a complete version."""
        ...

    def open_draft(self, version: str) -> Draft:
        """Continue the draft of this version, or begin one."""
        ...

    def has(self, draft: Draft, name: str) -> bool:
        """Return True if a file that the draft names as complete is still there."""
        ...

    def keep(self, version: str, draft: Draft, name: str, is_weights: bool) -> None:
        """Store a complete file of the draft."""
        ...

    def room(self, sizes: list[int]) -> int:
        """Return the bytes that weights of these sizes need on the disk of the draft."""
        ...

    def finish(self, version: str, draft: Draft, manifest: Manifest) -> None:
        """Make the version complete."""
        ...


class DirectoryDestination:
    """Versions as directories of `root`, for example the models claim of the chart."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def manifest(self, version: str) -> Manifest | None:
        """Read the manifest, as specified by `Destination.manifest`."""
        directory = self._root / version
        return read_manifest(directory) if (directory / MANIFEST).exists() else None

    def open_draft(self, version: str) -> Draft:
        """Implement `Destination.open_draft`; the draft is beside the versions."""
        return _open(self._root / f".{version}.import")

    def has(self, draft: Draft, name: str) -> bool:
        """Look for the file in the draft."""
        return (draft.folder / name).is_file()

    def keep(self, version: str, draft: Draft, name: str, is_weights: bool) -> None:
        """Record the file in the state of the draft."""
        write_json(draft.folder / STATE, draft.files)

    def room(self, sizes: list[int]) -> int:
        """All weights stay in the draft."""
        return sum(sizes)

    def finish(self, version: str, draft: Draft, manifest: Manifest) -> None:
        """Rename the draft. A directory without a manifest is a remainder, and is replaced."""
        for path in draft.folder.iterdir():  # the state, and remains of another source
            if path.name not in manifest.files:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        sync_tree(draft.folder)
        save_manifest(draft.folder, manifest)
        publish(draft.folder, self._root / version)


class BucketDestination:
    """Versions in an object store. Weights are uploaded one by one and deleted here.

    Args:
        scratch: folder with room for the largest file.
    """

    def __init__(self, bucket: ModelBucket, scratch: Path) -> None:
        self._bucket, self._scratch = bucket, scratch

    def manifest(self, version: str) -> Manifest | None:
        """Read the manifest, as specified by `Destination.manifest`."""
        return self._bucket.manifest(version, self._scratch / f".{version}.manifest")

    def open_draft(self, version: str) -> Draft:
        """Implement `Destination.open_draft`. The state is in the store, as the weights are."""
        draft = _open(self._scratch / f".{version}.import")
        state = self._bucket.get(version, STATE)
        draft.files = json.loads(state) if state else {}
        return draft

    def has(self, draft: Draft, name: str) -> bool:
        """Implement `Destination.has`: files of the state are in the store."""
        return name.endswith(".safetensors") or (draft.folder / name).is_file()

    def keep(self, version: str, draft: Draft, name: str, is_weights: bool) -> None:
        """Upload weights, then the state."""
        if is_weights:
            self._bucket.put(version, name, draft.folder / name)
            self._bucket.put(version, STATE, json.dumps(draft.files).encode())
            (draft.folder / name).unlink()

    def room(self, sizes: list[int]) -> int:
        """Only one file of weights is in the draft at a time."""
        return max(sizes, default=0)

    def finish(self, version: str, draft: Draft, manifest: Manifest) -> None:
        """Upload the small files, and the manifest last."""
        for name in manifest.files:
            if (draft.folder / name).is_file():
                self._bucket.put(version, name, draft.folder / name)
        save_manifest(draft.folder, manifest)
        self._bucket.put(version, MANIFEST, draft.folder / MANIFEST)
        for name in {*self._bucket.files(version)} - {*manifest.files, MANIFEST}:
            self._bucket.remove(version, name)
        shutil.rmtree(draft.folder)


def _open(folder: Path) -> Draft:
    make_directory(folder)
    # No source continues the partial file of an earlier process.
    for path in folder.glob(f"*{PARTIAL}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    state = folder / STATE
    return Draft(folder, json.loads(state.read_text()) if state.exists() else {})
