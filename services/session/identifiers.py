"""Identifiers of rows: UUIDv7 (RFC 9562 §5.7)."""

import secrets
import time
import uuid


class IdGenerator:
    """Generator of increasing UUIDv7.

    An id has 48 bits of milliseconds, a 12-bit counter within the millisecond, and 62 random bits.
    """

    def __init__(self) -> None:
        self._milliseconds = 0
        self._counter = 0

    def new_id(self) -> str:
        """Return a new id, greater than every earlier id of this generator."""
        now = time.time_ns() // 1_000_000
        if now > self._milliseconds:
            # A random start below 256 leaves at least 3,840 ids for the rest of the millisecond.
            self._milliseconds, self._counter = now, secrets.randbits(8)
        elif self._counter == 0xFFF:
            # Counter exhausted, or the clock moved back: continue in the next millisecond.
            self._milliseconds, self._counter = self._milliseconds + 1, 0
        else:
            self._counter += 1
        value = (
            self._milliseconds << 80
            | 0x7 << 76
            | self._counter << 64
            | 0b10 << 62
            | secrets.randbits(62)
        )
        return str(uuid.UUID(int=value))
