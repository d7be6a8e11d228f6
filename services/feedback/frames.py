"""How one record lies in a spool file: magic, length, CRC-32, body.

Each frame names the byte where its group commit began. Everything before that byte was synced before this frame was
written; so a broken frame followed by a frame of a later group is damage to acknowledged data and no torn tail.
"""

import struct
import zlib
from array import array
from dataclasses import dataclass

MAGIC = b"TWF1"
_HEAD = struct.Struct(">4sII")  # magic, body length, CRC-32 of the body
_BODY = struct.Struct(
    ">QQQHHH32s"
)  # offset, append time, group's first byte, schema, id length, key length, fingerprint
MAX_BODY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class Entry:
    """An event on its way into a log. The log does not look into the payload."""

    event_id: str
    key: str
    fingerprint: bytes
    schema_major: int
    payload: bytes


@dataclass(frozen=True)
class Record:
    """An entry at its place in a log; `append_us` is microseconds since 1970, for people, not for order."""

    offset: int
    append_us: int
    entry: Entry


@dataclass(frozen=True)
class Frame:
    """A record found in a file; `end` is one past its last byte."""

    record: Record
    group_at: int
    end: int


@dataclass(frozen=True)
class Scan:
    """The whole frames at the beginning of a file: where each begins, and one past the last byte of the last."""

    positions: "array[int]"
    end: int


def frame_bytes(entry: Entry) -> int:
    """The size that `encode` will give."""
    return _HEAD.size + _BODY.size + len(entry.event_id.encode()) + len(entry.key.encode()) + len(entry.payload)


def encode(record: Record, group_at: int) -> bytes:
    """One frame."""
    entry = record.entry
    event_id, key = entry.event_id.encode(), entry.key.encode()
    body = b"".join(
        (
            _BODY.pack(
                record.offset,
                record.append_us,
                group_at,
                entry.schema_major,
                len(event_id),
                len(key),
                entry.fingerprint,
            ),
            event_id,
            key,
            entry.payload,
        )
    )
    return _HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body


def decode(data: bytes, position: int) -> Frame | None:
    """The frame at a position; None if there is no whole and sound one."""
    if len(data) - position < _HEAD.size + _BODY.size:
        return None
    magic, length, checksum = _HEAD.unpack_from(data, position)
    start, end = position + _HEAD.size, position + _HEAD.size + length
    if magic != MAGIC or length > MAX_BODY_BYTES or end > len(data):
        return None
    body = data[start:end]
    if zlib.crc32(body) != checksum:
        return None
    offset, append_us, group_at, schema_major, id_bytes, key_bytes, fingerprint = _BODY.unpack_from(body)
    key_at = _BODY.size + id_bytes
    payload_at = key_at + key_bytes
    entry = Entry(
        event_id=body[_BODY.size : key_at].decode(),
        key=body[key_at:payload_at].decode(),
        fingerprint=fingerprint,
        schema_major=schema_major,
        payload=body[payload_at:],
    )
    return Frame(Record(offset, append_us, entry), group_at, end)


def scan(data: bytes, first_offset: int) -> Scan:
    """Walk frames from the beginning until the first that is not whole, not sound or out of order."""
    positions, position = array("Q"), 0
    while (frame := decode(data, position)) and frame.record.offset == first_offset + len(positions):
        positions.append(position)
        position = frame.end
    return Scan(positions, position)


def proves_damage(data: bytes, broken_at: int) -> bool:
    """True if a later group stands behind the broken place: what broke had been synced, and perhaps acknowledged."""
    position = data.find(MAGIC, broken_at + 1)
    while position >= 0:
        frame = decode(data, position)
        if frame and frame.group_at > broken_at:
            return True
        position = data.find(MAGIC, position + 1)
    return False
