"""Write-ahead log on the local disk, durable after fdatasync.

The log survives kill -9 and power loss. Each stream has a folder with `lock` (one process),
`topic_id` (created once, so a recreated folder is another log) and files of frames, named by their
first offset. Only whole files are deleted, and only below the offset committed by the sink.
"""

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.chassis.errors import UnavailableError
from services.feedback.durable import make_directory
from services.feedback.spool import frames
from services.feedback.spool.folder import (
    SpoolDamagedError,
    create_file,
    file_path,
    lock_folder,
    read_topic_id,
    recover,
)
from services.feedback.spool.frames import Entry, Record
from services.feedback.spool.log import OffsetOutOfRangeError

RETRY_SECONDS = 5.0
BROKEN = "FEEDBACK_SPOOL_BROKEN"


@dataclass(frozen=True)
class Device:
    """System calls that fail on a full or broken disk."""

    write: Callable[[int, memoryview, int], int] = os.pwrite
    sync: Callable[[int], None] = os.fdatasync


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
            self.check_space(sum(map(frames.frame_bytes, entries)))
            try:
                self._rotate_if(self._files[-1].size >= self._segment_bytes)
                file, stamp = self._files[-1], self._now_us()
                records = [Record(file.end + i, stamp, entry) for i, entry in enumerate(entries)]
                encoded = [frames.encode(record, file.size) for record in records]
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
                except OSError:
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
            with path.open("rb") as file:
                file.seek(first)
                data = file.read(last - first)
            found, position = [], 0
            while position < last - first:
                frame = frames.decode(data, position)
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
