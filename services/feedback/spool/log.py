"""Log between acceptance and sink (the spool, or a partition of a Kafka topic) and its records.

A record is stored in a spool file as a frame: magic, length, CRC-32, body. Each frame contains the
position of the first byte of its group commit. All bytes before that position were synced before
the frame was written. A broken frame followed by a frame of a later group therefore proves damage
to acknowledged data; otherwise the broken frame is a torn tail. Frames of version 1, without accept
order and trace, are still readable.
"""

import struct
import zlib
from array import array
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.chassis.errors import DetailedError


@dataclass(frozen=True)
class Entry:
    """Event to be appended to a log; the log never parses the payload.

    `accept_order` orders events across replicas; 0 means a single process, where the log's own
    order counts. `traceparent` is the W3C trace of the original call, or empty.
    """

    event_id: str
    key: str
    fingerprint: bytes
    schema_major: int
    payload: bytes
    accept_order: int = 0
    traceparent: str = ""


class Signature(StrEnum):
    """Result of the check of a record's signature.

    A record of the write-ahead log is valid without one, since only this service writes the file.
    """

    VALID = "valid"
    MISSING = "missing"
    WRONG = "wrong"


@dataclass(frozen=True)
class Record:
    """Entry at its offset in a log.

    `append_us` is in microseconds since 1970, for information only and never for order.
    """

    offset: int
    append_us: int
    entry: Entry
    signature: Signature = Signature.VALID


class LogError(DetailedError):
    """Log is unusable in its current state and needs an operator."""

    reason = "INVALID_LOG"


class OffsetOutOfRangeError(LogError):
    """Requested records are not in the log; readers must stop and never skip.

    `limit` is the available range.
    """

    reason = "OUT_OF_RANGE"


class OffsetGapError(LogError):
    """Log has skipped offsets; without transactions and log compaction a gap is a loss of records.

    `limit` is the missing offset.
    """

    reason = "OFFSET_GAP"


class TopicReplacedError(LogError):
    """Log was replaced by another log of the same name, with another id and offsets from 0."""

    reason = "MISMATCH"


class LogUnavailableError(DetailedError):
    """Log does not answer at present; the caller retries later."""

    reason = "UNREACHABLE"


@dataclass(frozen=True)
class LogView:
    """Range of a partition for an external observer: `start_offset` to before `end_offset`."""

    topic_id: str
    partition: int
    start_offset: int
    end_offset: int


class Log(Protocol):
    """One partition of a log, as read by a sink."""

    @property
    def topic_id(self) -> str:
        """Identifier of this log; a recreated log has another id and starts at offset 0."""

    @property
    def partition(self) -> int:
        """Number of the partition."""

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        """Return records from an offset on, in order.

        Raises:
            OffsetOutOfRangeError: The log lacks the offset.
            TopicReplacedError: The topic was recreated.
            LogUnavailableError: The log does not answer.
        """

    def trim(self, before: int) -> None:
        """Release records below an offset, since no reader needs them."""


MAGIC_PREFIX = b"TWF"
MAGIC_V1, MAGIC_V2 = MAGIC_PREFIX + b"1", MAGIC_PREFIX + b"2"
_HEAD = struct.Struct(">4sII")  # magic, body length, CRC-32 of the body
# offset, append time, group start, schema, id length, key length, fingerprint
_BODY_V1 = struct.Struct(">QQQHHH32s")
# fields of version 1, then accept order and trace length
_BODY_V2 = struct.Struct(">QQQHHH32sQH")
_BODY_BY_MAGIC = {MAGIC_V1: _BODY_V1, MAGIC_V2: _BODY_V2}
MAX_BODY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Frame:
    """Record found in a file; `end` is the position after its last byte."""

    record: Record
    group_start: int
    end: int


@dataclass(frozen=True)
class Scan:
    """Intact frames at the beginning of a file: start of each frame, and end of the last frame."""

    positions: "array[int]"
    end: int


def frame_bytes(entry: Entry) -> int:
    """Return the size of the encoded frame in bytes."""
    texts = (entry.event_id, entry.key, entry.traceparent)
    return (
        _HEAD.size + _BODY_V2.size + sum(len(text.encode()) for text in texts) + len(entry.payload)
    )


def encode_frame(record: Record, group_start: int) -> bytes:
    """Encode a record as one frame."""
    entry = record.entry
    event_id, key, trace = entry.event_id.encode(), entry.key.encode(), entry.traceparent.encode()
    fixed = _BODY_V2.pack(
        record.offset,
        record.append_us,
        group_start,
        entry.schema_major,
        len(event_id),
        len(key),
        entry.fingerprint,
        entry.accept_order,
        len(trace),
    )
    body = b"".join((fixed, event_id, key, trace, entry.payload))
    return _HEAD.pack(MAGIC_V2, len(body), zlib.crc32(body)) + body


def decode_frame(data: bytes, position: int) -> Frame | None:
    """Return the frame at a position, or None without an intact frame."""
    if len(data) - position < _HEAD.size + _BODY_V1.size:
        return None
    magic, length, checksum = _HEAD.unpack_from(data, position)
    start, end = position + _HEAD.size, position + _HEAD.size + length
    body_format = _BODY_BY_MAGIC.get(magic)
    # A corrupt header may carry any length, also beyond the end of the file.
    if body_format is None or not body_format.size <= length <= MAX_BODY_BYTES or end > len(data):
        return None
    body = data[start:end]
    # The length may be intact while a block of the body never reached the disk.
    if zlib.crc32(body) != checksum:
        return None
    offset, append_us, group_start, schema_major, id_bytes, key_bytes, fingerprint, *later = (
        body_format.unpack_from(body)
    )
    accept_order, trace_bytes = later or (0, 0)
    key_at = body_format.size + id_bytes
    trace_at = key_at + key_bytes
    payload_at = trace_at + trace_bytes
    entry = Entry(
        event_id=body[body_format.size : key_at].decode(),
        key=body[key_at:trace_at].decode(),
        fingerprint=fingerprint,
        schema_major=schema_major,
        payload=body[payload_at:],
        accept_order=accept_order,
        traceparent=body[trace_at:payload_at].decode(),
    )
    return Frame(Record(offset, append_us, entry), group_start, end)


def scan_frames(data: bytes, first_offset: int) -> Scan:
    """Scan frames until the first incomplete, corrupt or out-of-order frame."""
    positions, position = array("Q"), 0
    while (frame := decode_frame(data, position)) and frame.record.offset == first_offset + len(
        positions
    ):
        positions.append(position)
        position = frame.end
    return Scan(positions, position)


def proves_damage(data: bytes, broken_at: int) -> bool:
    """Return True if a frame of a later group follows the broken position.

    The broken bytes had then been synced, and perhaps acknowledged.
    """
    position = data.find(MAGIC_PREFIX, broken_at + 1)
    while position >= 0:
        frame = decode_frame(data, position)
        # A later frame of the same group proves no damage: blocks of one unsynced write reach the
        # disk in any order.
        if frame and frame.group_start > broken_at:
            return True
        position = data.find(MAGIC_PREFIX, position + 1)
    return False
