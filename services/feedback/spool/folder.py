"""Folder of a spool: lock, topic id, files, and recovery after a crash.

A recreated folder has another topic id. Its offsets start at 0 again and never mix with the old
offsets.
"""

import fcntl
import os
import uuid
from array import array
from dataclasses import dataclass, field
from pathlib import Path

from services.feedback.durable import sync_directory, write_file
from services.feedback.spool import frames
from services.feedback.spool.log import LogError, LogView

SUFFIX = ".log"


class SpoolError(LogError):
    """Spool folder is unusable in its current state."""


class SpoolDamagedError(SpoolError):
    """Acknowledged records are unreadable; `field` is the file."""

    reason = "DAMAGED"


class SpoolLockedError(SpoolError):
    """Spool is locked by another process."""

    reason = "IN_USE"


@dataclass
class SpoolFile:
    """Spool file with the first byte of each record (`positions`) and its durable size in bytes."""

    path: Path
    base: int
    positions: "array[int]" = field(default_factory=lambda: array("Q"))
    size: int = 0

    @property
    def end(self) -> int:
        """Offset after the last record."""
        return self.base + len(self.positions)


def inspect(directory: Path, attempts: int = 5) -> list[LogView]:
    """Read every record without changes; return an empty list without a spool.

    Raises:
        SpoolDamagedError: Acknowledged records are unreadable.
    """
    if not (directory / "topic_id").exists():
        return []
    try:
        files = recover(directory, repair=False)
    except FileNotFoundError:
        # The running service trimmed a file during the read.
        if attempts == 1:
            raise
        return inspect(directory, attempts - 1)
    start, end = (files[0].base, files[-1].end) if files else (0, 0)
    return [LogView(read_topic_id(directory), 0, start, end)]


def recover(directory: Path, repair: bool = True) -> list[SpoolFile]:
    """Scan all files of a spool and cut off a torn tail of the last file.

    A torn tail was never acknowledged.

    Raises:
        SpoolDamagedError: Damage anywhere else, or a missing file.
    """
    paths = sorted(directory.glob(f"*{SUFFIX}"))
    if not paths and repair:
        return [create_file(file_path(directory, 0))]
    files: list[SpoolFile] = []
    for path in paths:
        data, base = path.read_bytes(), int(path.stem)
        found = frames.scan(data, base)
        if files and files[-1].end != base:
            raise SpoolDamagedError(
                f"{path.name} does not continue the previous file, which ends at {files[-1].end}",
                field=path.name,
                reason="MISSING",
                limit=str(files[-1].end),
            )
        torn = found.end < len(data)
        if torn and (path != paths[-1] or frames.proves_damage(data, found.end)):
            raise SpoolDamagedError(f"{path.name} is damaged at byte {found.end}", field=path.name)
        # Only the last file was open for writing at the time of the crash.
        if repair and path == paths[-1]:
            # Sync as well: a recovered record may be unsynced, and a retry of its event is
            # acknowledged as known.
            with path.open("r+b") as file:
                file.truncate(found.end)
                os.fsync(file.fileno())
        files.append(SpoolFile(path, base, found.positions, found.end))
    return files


def file_path(directory: Path, base: int) -> Path:
    """Return the path of the file with this first offset."""
    return directory / f"{base:020d}{SUFFIX}"


def create_file(path: Path) -> SpoolFile:
    """Create an empty file durably."""
    with path.open("wb") as file:
        os.fsync(file.fileno())
    sync_directory(path.parent)
    return SpoolFile(path, int(path.stem))


def read_topic_id(directory: Path) -> str:
    """Return the log's id, and create an id for a new folder."""
    path = directory / "topic_id"
    if path.exists():
        return str(uuid.UUID(path.read_text().strip()))
    if any(directory.glob(f"*{SUFFIX}")):
        raise SpoolDamagedError(
            f"the spool has records but no {path.name}", field=path.name, reason="MISSING"
        )
    topic_id = str(uuid.uuid4())
    # The id is durable before the first record, so records never exist without an id.
    write_file(path, topic_id.encode())
    return topic_id


def lock_folder(directory: Path) -> int:
    """Lock the folder against other processes until the descriptor is closed.

    Raises:
        SpoolLockedError: Another process holds the lock.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # The kernel releases this lock when the process dies, also after kill -9.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SpoolLockedError(
            f"another process uses the spool {directory.name}", field=directory.name
        ) from error
    return descriptor
