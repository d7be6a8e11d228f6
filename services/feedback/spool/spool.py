"""Write-ahead log on the local disk, durable after fdatasync.

The log survives kill -9 and power loss. Each stream has a folder with `lock` (one process),
`topic_id` (created once) and files of frames, named by their first offset. Only whole files are
deleted, and only below the offset committed by the sink. A recreated folder has another topic id,
so it is another log: its offsets start at 0 again and never mix with the old offsets.
"""

import errno
import fcntl
import os
import threading
import time
import uuid
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from durable_files.files import make_directory, sync_directory, write_file
from services.chassis.errors import UnavailableError
from services.feedback.spool.log import (
    Entry,
    LogError,
    LogView,
    OffsetOutOfRangeError,
    Record,
    decode_frame,
    encode_frame,
    frame_bytes,
    proves_damage,
    scan_frames,
)

RETRY_SECONDS = 5.0
BROKEN = "FEEDBACK_SPOOL_BROKEN"
SUFFIX = ".log"
# Errors of a full disk. After any other error, such as EIO, a later sync may succeed although data
# was lost, so the disk is not trusted again.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True)
class Device:
    """System calls that fail on a full or broken disk."""

    write: Callable[[int, memoryview, int], int] = os.pwrite
    sync: Callable[[int], None] = os.fdatasync


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


class Spool:
    """Write-ahead log of one stream.

    Appends are serial and durable on return. Reads and trims may run in other threads.
    """

    partition = 0

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        segment_bytes: int,
        device: Device | None = None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._directory, self._max_bytes, self._segment_bytes = directory, max_bytes, segment_bytes
        self._device, self._now_us = device or Device(), now_us
        self._mutex = threading.Lock()
        self._broken = False
        make_directory(directory)
        self._lock_descriptor = lock_folder(directory)
        self.topic_id = read_topic_id(directory)
        self._files = recover(directory)
        self._descriptor = os.open(self._files[-1].path, os.O_RDWR)

    def close(self) -> None:
        """Close the files and release the folder."""
        os.close(self._descriptor)
        os.close(self._lock_descriptor)

    @property
    def start_offset(self) -> int:
        """Offset of the first readable record."""
        return self._files[0].base

    @property
    def end_offset(self) -> int:
        """Offset after the last durable record."""
        return self._files[-1].end

    @property
    def bytes_used(self) -> int:
        """Size of all files in bytes."""
        return sum(file.size for file in self._files)

    def check_space(self, new_bytes: int) -> None:
        """Check for space for a number of further bytes.

        Raises:
            UnavailableError: The bytes would exceed the limit.
        """
        if self.bytes_used + new_bytes > self._max_bytes:
            raise _not_stored("the spool is full", "FEEDBACK_SPOOL_FULL")

    def append(self, entries: Sequence[Entry]) -> list[Record]:
        """Store all entries durably, or none of them.

        Raises:
            UnavailableError: The spool or the disk is full and no entry was stored, or the disk is
                broken and the state is unknown until the next start.
        """
        with self._mutex:
            if self._broken:
                raise _not_stored("the spool's disk failed earlier", BROKEN)
            self.check_space(sum(map(frame_bytes, entries)))
            try:
                self._rotate_if(self._files[-1].size >= self._segment_bytes)
                file, stamp = self._files[-1], self._now_us()
                records = [Record(file.end + i, stamp, entry) for i, entry in enumerate(entries)]
                encoded = [encode_frame(record, file.size) for record in records]
                data = memoryview(b"".join(encoded))
                written = 0
                while written < len(data):
                    # A write may be partial, for example on a nearly full disk.
                    written += self._device.write(
                        self._descriptor, data[written:], file.size + written
                    )
                self._device.sync(self._descriptor)
                for frame in encoded:
                    # Publish the records only after the sync: readers and the sink must not see a
                    # record that a power loss could still remove.
                    file.positions.append(file.size)
                    file.size += len(frame)
                return records
            except OSError as error:
                try:
                    # A rejected record left in the file would become durable with the next append.
                    os.ftruncate(self._descriptor, self._files[-1].size)
                    self._device.sync(self._descriptor)
                    is_usable = error.errno in DISK_FULL
                except OSError:
                    is_usable = False
                if not is_usable:
                    # The end of the file is unknown, so the spool rejects all further entries.
                    self._broken = True
                    raise UnavailableError(
                        "the spool's disk failed and the outcome is unknown; "
                        "retry with the same request_id to learn the outcome",
                        reason=BROKEN,
                        retry_seconds=RETRY_SECONDS,
                    ) from error
                raise _not_stored(
                    "the spool's disk is full or failing", "FEEDBACK_SPOOL_DISK"
                ) from error

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        """Return records from an offset on, at least one record unless the offset is the end.

        Raises:
            OffsetOutOfRangeError: The offset was trimmed or never written.
            SpoolDamagedError: A durable record is unreadable.
        """
        records: list[Record] = []
        remaining_bytes = max_bytes
        while remaining_bytes > 0 and len(records) < max_records:
            located = self._locate(
                start + len(records), max_records - len(records), remaining_bytes
            )
            if located is None:
                break
            path, first, last = located
            try:
                with path.open("rb") as file:
                    file.seek(first)
                    data = file.read(last - first)
            except FileNotFoundError:
                # Another thread trimmed the file after `_locate`, which now raises.
                continue
            found, position = [], 0
            while position < last - first:
                frame = decode_frame(data, position)
                if frame is None:
                    raise SpoolDamagedError(
                        f"{path.name} is damaged at byte {first + position}", field=path.name
                    )
                found.append(frame.record)
                position = frame.end
            records += found
            remaining_bytes -= last - first
        return records

    def trim(self, before: int) -> None:
        """Delete whole files below an offset.

        A fully consumed file is deleted as well, since the file may contain user text.
        """
        with self._mutex:
            # Free space first: a full disk may not allow the creation of a new file.
            self._delete(before)
            self._rotate_if(before >= self.end_offset and self._files[-1].size > 0)
            self._delete(before)

    def _delete(self, before: int) -> None:
        done = [file for file in self._files[:-1] if file.end <= before]
        # Update the list first, so that no new read chooses a file about to disappear.
        self._files = self._files[len(done) :]
        for file in done:
            file.path.unlink()

    def _rotate_if(self, due: bool) -> None:
        if not due:
            return
        path = file_path(self._directory, self.end_offset)
        try:
            file = create_file(path)
            descriptor = os.open(path, os.O_RDWR)
        except OSError:
            # A leftover file would contradict further appends to the current file.
            path.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._files = [*self._files, file]

    def _locate(
        self, offset: int, max_records: int, max_bytes: int
    ) -> tuple[Path, int, int] | None:
        """Return file, first byte and end of a run of records, or None at the end of the log."""
        with self._mutex:
            if not self.start_offset <= offset <= self.end_offset:
                raise OffsetOutOfRangeError(
                    f"offset {offset} of topic {self.topic_id} is out of range: "
                    f"the spool holds {self.start_offset} to {self.end_offset}",
                    field="offset",
                    limit=f"{self.start_offset} to {self.end_offset}",
                )
            if offset == self.end_offset:
                return None
            file = self._files[bisect_right(self._files, offset, key=lambda file: file.base) - 1]
            # Ends of the records to return. The last one ends where its successor starts.
            first = offset - file.base
            bounds = [*file.positions[first + 1 : first + max_records], file.size]
            if first + max_records < len(file.positions):
                bounds[-1] = file.positions[first + max_records]
            start = file.positions[first]
            fitting = bisect_right(bounds, start + max_bytes)
            # At least one record, even if it alone is larger than max_bytes.
            return file.path, start, bounds[max(0, fitting - 1)]


def _not_stored(why: str, reason: str) -> UnavailableError:
    return UnavailableError(
        f"{why}; no event was stored; retry with the same request_id",
        reason=reason,
        retry_seconds=RETRY_SECONDS,
    )


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
        found = scan_frames(data, base)
        if files and files[-1].end != base:
            raise SpoolDamagedError(
                f"{path.name} does not continue the previous file, which ends at {files[-1].end}",
                field=path.name,
                reason="MISSING",
                limit=str(files[-1].end),
            )
        torn = found.end < len(data)
        if torn and (path != paths[-1] or proves_damage(data, found.end)):
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
