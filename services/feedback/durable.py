"""Files and folders that survive power loss."""

import os
import uuid
from pathlib import Path

DRAFT_PREFIX = ".draft-"


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically: draft, sync, rename, sync of the folder.

    Readers see either the old content or the new content.
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
    """Create a folder and its missing parents, and sync each entry into its parent."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(exist_ok=True)
    sync_directory(directory.parent)


def sync_directory(directory: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
