"""How one record lies in a spool file: magic, length, CRC-32, body.

Each frame names the byte where its group commit began. Everything before that byte was synced
before this frame was written; so a broken frame followed by a frame of a later group is damage to
acknowledged data and no torn tail. Frames of the first version, which had no accept order and no
trace, are still read.
"""

import struct
import zlib
from array import array
from dataclasses import dataclass

MAGIC_PREFIX = b"TWF"
MAGIC_V1, MAGIC_V2 = MAGIC_PREFIX + b"1", MAGIC_PREFIX + b"2"
_HEAD = struct.Struct(">4sII")  # magic, body length, CRC-32 of the body
# offset, append time, group's first byte, schema, id length, key length, fingerprint
_BODY_V1 = struct.Struct(">QQQHHH32s")
# the same, then accept order, trace length
_BODY_V2 = struct.Struct(">QQQHHH32sQH")
_BODY_BY_MAGIC = {MAGIC_V1: _BODY_V1, MAGIC_V2: _BODY_V2}
MAX_BODY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """An event on its way into a log. The log does not look into the payload.

    `accept_order` orders events over all replicas (0: there is one process, the log's own order
    counts); `traceparent` is the W3C trace of the call that brought it, or empty.
    """

    event_id: str
    key: str
    fingerprint: bytes
    schema_major: int
    payload: bytes
    accept_order: int = 0
    traceparent: str = ""


@dataclass(frozen=True)
class Record:
    """An entry at its place in a log; `append_us` is microseconds since 1970, for people, not for
    order.
    """

    offset: int
    append_us: int
    entry: Entry


@dataclass(frozen=True)
class Frame:
    """A record found in a file; `end` is one past its last byte."""

    record: Record
    group_start: int
    end: int


@dataclass(frozen=True)
class Scan:
    """The whole frames at the beginning of a file: where each begins, and one past the last byte of
    the last.
    """

    positions: "array[int]"
    end: int


def frame_bytes(entry: Entry) -> int:
    """The size that `encode` will give."""
    texts = (entry.event_id, entry.key, entry.traceparent)
    return (
        _HEAD.size + _BODY_V2.size + sum(len(text.encode()) for text in texts) + len(entry.payload)
    )


def encode(record: Record, group_start: int) -> bytes:
    """One frame."""
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


def decode(data: bytes, position: int) -> Frame | None:
    """The frame at a position; None if there is no whole and sound one."""
    if len(data) - position < _HEAD.size + _BODY_V1.size:
        return None
    magic, length, checksum = _HEAD.unpack_from(data, position)
    start, end = position + _HEAD.size, position + _HEAD.size + length
    body_format = _BODY_BY_MAGIC.get(magic)
    if body_format is None or not body_format.size <= length <= MAX_BODY_BYTES or end > len(data):
        return None
    body = data[start:end]
    if zlib.crc32(body) != checksum:
        return None
    record, group_start = _record(body, body_format)
    return Frame(record, group_start, end)


def _record(body: bytes, body_format: struct.Struct) -> tuple[Record, int]:
    """The record of a sound body, and where its group began."""
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
    return Record(offset, append_us, entry), group_start


def scan(data: bytes, first_offset: int) -> Scan:
    """Walk frames from the beginning until the first that is not whole, not sound or out of order."""
    positions, position = array("Q"), 0
    while (frame := decode(data, position)) and frame.record.offset == first_offset + len(
        positions
    ):
        positions.append(position)
        position = frame.end
    return Scan(positions, position)


def proves_damage(data: bytes, broken_at: int) -> bool:
    """True if a later group stands behind the broken place: what broke had been synced, and perhaps
    acknowledged.
    """
    position = data.find(MAGIC_PREFIX, broken_at + 1)
    while position >= 0:
        frame = decode(data, position)
        if frame and frame.group_start > broken_at:
            return True
        position = data.find(MAGIC_PREFIX, position + 1)
    return False
