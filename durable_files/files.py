"""Files and folders that survive power loss and appear under their names only when complete.

A new content is synced before the rename, and the folder afterwards: without the first a name may
point to an empty file after power loss, without the second the rename may be undone.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

DRAFT_PREFIX = ".draft-"


def write_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file atomically and durably.

    Readers see either the old content or the new content. Two writers at once do not disturb each
    other; the last one wins. A killed writer may leave a file whose name begins with DRAFT_PREFIX.

    Args:
        mode: permissions, reduced by the umask.
    """
    make_directory(path.parent)
    draft = path.with_name(f"{DRAFT_PREFIX}{uuid.uuid4().hex}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        publish(draft, path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def write_json(path: Path, fields: object) -> None:
    """Write a JSON file atomically and durably."""
    write_file(path, (json.dumps(fields, indent=1) + "\n").encode())


def publish(draft: Path, path: Path) -> None:
    """Sync a complete file or folder and rename it.

    Args:
        draft: written completely, in the folder of `path`.
        path: a file is replaced. A folder is removed before, so it must be one without value.
    """
    sync_tree(draft)
    if path.is_dir():
        shutil.rmtree(path)
    draft.replace(path)
    sync_directory(path.parent)


def sync_tree(path: Path) -> None:
    """Make a file, or a folder with all its files and folders, durable."""
    if not path.is_dir():
        _sync(path)
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            file = Path(folder, name)
            if file.is_file() and not file.is_symlink():
                _sync(file)
        sync_directory(Path(folder))


def make_directory(directory: Path, mode: int = 0o777) -> None:
    """Create a folder and its missing parents, and sync each entry into its parent.

    Args:
        mode: permissions of the folder, reduced by the umask; parents have the usual ones.
    """
    if directory.is_dir():
        return
    if not directory.parent.exists():
        make_directory(directory.parent)
    directory.mkdir(mode, exist_ok=True)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make the entries of a folder durable."""
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
