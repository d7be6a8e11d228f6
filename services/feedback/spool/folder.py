"""The folder of one spool: its lock, its topic id, its files, and what a crash may have left at the
end of the last.

A folder made anew has another topic id, so that its offsets, which begin at 0 again, never meet the
old ones.
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
    """The folder cannot be used as it is."""


class SpoolDamagedError(SpoolError):
    """Acknowledged records cannot be read back; `field` is the file."""

    reason = "DAMAGED"


class SpoolLockedError(SpoolError):
    """Another process has this spool."""

    reason = "IN_USE"


@dataclass
class SpoolFile:
    """One file: `positions` holds the first byte of each record, `size` the bytes that are durable."""

    path: Path
    base: int
    positions: "array[int]" = field(default_factory=lambda: array("Q"))
    size: int = 0

    @property
    def end(self) -> int:
        """One past the last offset."""
        return self.base + len(self.positions)


def inspect(directory: Path, attempts: int = 5) -> list[LogView]:
    """Read every record without changing anything; empty if there is no spool.

    Raises:
        SpoolDamagedError: acknowledged records cannot be read.
    """
    if not (directory / "topic_id").exists():
        return []
    try:
        files = recover(directory, repair=False)
    except FileNotFoundError:
        # The running service trimmed a file under our eyes.
        if attempts == 1:
            raise
        return inspect(directory, attempts - 1)
    start, end = (files[0].base, files[-1].end) if files else (0, 0)
    return [LogView(read_topic_id(directory), 0, start, end)]


def recover(directory: Path, repair: bool = True) -> list[SpoolFile]:
    """Open what is there; a torn tail of the last file does not count and is cut off, any other
    damage is refused.
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
                f"{path.name} does not follow the one before it, which ends at {files[-1].end}",
                field=path.name,
                reason="MISSING",
                limit=str(files[-1].end),
            )
        torn = found.end < len(data)
        if torn and (path != paths[-1] or frames.proves_damage(data, found.end)):
            raise SpoolDamagedError(f"{path.name} is damaged at byte {found.end}", field=path.name)
        if repair and path == paths[-1]:
            _truncate_and_sync(path, found.end)
        files.append(SpoolFile(path, base, found.positions, found.end))
    return files


def _truncate_and_sync(path: Path, size: int) -> None:
    """Cut off a torn tail, and sync what is whole: a record that nobody synced yet will be
    acknowledged as known.
    """
    with path.open("r+b") as file:
        file.truncate(size)
        os.fsync(file.fileno())


def file_path(directory: Path, base: int) -> Path:
    """Where the file lies whose first record has this offset."""
    return directory / f"{base:020d}{SUFFIX}"


def create_file(path: Path) -> SpoolFile:
    """An empty file, durably there."""
    with path.open("wb") as file:
        os.fsync(file.fileno())
    sync_directory(path.parent)
    return SpoolFile(path, int(path.stem))


def read_topic_id(directory: Path) -> str:
    """The log's id; made if the folder is new."""
    path = directory / "topic_id"
    if path.exists():
        return str(uuid.UUID(path.read_text().strip()))
    if any(directory.glob(f"*{SUFFIX}")):
        raise SpoolDamagedError(
            f"the spool has records but no {path.name}", field=path.name, reason="MISSING"
        )
    topic_id = str(uuid.uuid4())
    write_file(path, topic_id.encode())
    return topic_id


def lock_folder(directory: Path) -> int:
    """Keep other processes out until the descriptor is closed. Raises: SpoolLockedError."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SpoolLockedError(
            f"another process uses the spool {directory.name}", field=directory.name
        ) from error
    return descriptor
