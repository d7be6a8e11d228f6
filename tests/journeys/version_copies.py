"""Copies of a version under other names."""

import hashlib
import json
import shutil
from pathlib import Path


def copy_of(model: Path, version: str) -> Path:
    """Return a copy of a model under another version."""
    folder = model.parent / version
    shutil.copytree(model, folder)
    write_manifest(folder, version)
    return folder


def write_manifest(folder: Path, version: str) -> None:
    """Write name and hashes of the files into the manifest."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["version"] = version
    for name in manifest["files"]:
        manifest["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
