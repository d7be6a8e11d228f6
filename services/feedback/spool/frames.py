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

FAMILY = b"TWF"
FIRST, MAGIC = FAMILY + b"1", FAMILY + b"2"
_HEAD = struct.Struct(">4sII")  # magic, body length, CRC-32 of the body
# offset, append time, group's first byte, schema, id length, key length, fingerprint
_FIRST_BODY = struct.Struct(">QQQHHH32s")
# the same, then accept order, trace length
_BODY = struct.Struct(">QQQHHH32sQH")
_FORMS = {FIRST: _FIRST_BODY, MAGIC: _BODY}
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
    group_at: int
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
    return _HEAD.size + _BODY.size + sum(len(text.encode()) for text in texts) + len(entry.payload)


def encode(record: Record, group_at: int) -> bytes:
    """One frame."""
    entry = record.entry
    event_id, key, trace = entry.event_id.encode(), entry.key.encode(), entry.traceparent.encode()
    fixed = _BODY.pack(
        record.offset,
        record.append_us,
        group_at,
        entry.schema_major,
        len(event_id),
        len(key),
        entry.fingerprint,
        entry.accept_order,
        len(trace),
    )
    body = b"".join((fixed, event_id, key, trace, entry.payload))
    return _HEAD.pack(MAGIC, len(body), zlib.crc32(body)) + body


def decode(data: bytes, position: int) -> Frame | None:
    """The frame at a position; None if there is no whole and sound one."""
    if len(data) - position < _HEAD.size + _FIRST_BODY.size:
        return None
    magic, length, checksum = _HEAD.unpack_from(data, position)
    start, end = position + _HEAD.size, position + _HEAD.size + length
    form = _FORMS.get(magic)
    if form is None or not form.size <= length <= MAX_BODY_BYTES or end > len(data):
        return None
    body = data[start:end]
    if zlib.crc32(body) != checksum:
        return None
    record, group_at = _record(body, form)
    return Frame(record, group_at, end)


def _record(body: bytes, form: struct.Struct) -> tuple[Record, int]:
    """The record of a sound body, and where its group began."""
    offset, append_us, group_at, schema_major, id_bytes, key_bytes, fingerprint, *later = (
        form.unpack_from(body)
    )
    accept_order, trace_bytes = later or (0, 0)
    key_at = form.size + id_bytes
    trace_at = key_at + key_bytes
    payload_at = trace_at + trace_bytes
    entry = Entry(
        event_id=body[form.size : key_at].decode(),
        key=body[key_at:trace_at].decode(),
        fingerprint=fingerprint,
        schema_major=schema_major,
        payload=body[payload_at:],
        accept_order=accept_order,
        traceparent=body[trace_at:payload_at].decode(),
    )
    return Record(offset, append_us, entry), group_at


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
    position = data.find(FAMILY, broken_at + 1)
    while position >= 0:
        frame = decode(data, position)
        if frame and frame.group_at > broken_at:
            return True
        position = data.find(FAMILY, position + 1)
    return False
