"""Files and folders that are still there, whole, after the power went away."""

import os
import uuid
from pathlib import Path

DRAFT_PREFIX = ".draft-"


def write_file(path: Path, data: bytes) -> None:
    """Put a whole file in its place: draft, sync, rename, sync the folder. A reader sees the old
    one or the new one.
    """
    make_directory(path.parent)
    draft = path.with_name(f"{DRAFT_PREFIX}{uuid.uuid4().hex}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    sync_directory(path.parent)


def make_directory(directory: Path) -> None:
    """Make a folder, and what is missing above it; each is synced into its parent."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
