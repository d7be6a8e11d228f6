"""Ids minted by the server: UUIDv7 for rows (RFC 9562 §5.7), UUIDv5 for events. In one process a
later id is greater.
"""

import secrets
import time
import uuid

# uuid5(NAMESPACE_URL, "urn:thumbwheel:turns"): fixed for ever, because the same turn must give the
# same event id.
TURN_NAMESPACE = uuid.UUID("e2251413-5acf-5f43-8fa6-38ad7b4ab04e")
FINISHED, ERASED = 0, 1


class IdMint:
    """Mints UUIDv7: 48 bits of milliseconds, a 12-bit counter within the millisecond, 62 random
    bits.
    """

    def __init__(self) -> None:
        self._milliseconds = 0
        self._counter = 0

    def mint(self) -> str:
        """A new id, greater than every id minted before by this object."""
        now = time.time_ns() // 1_000_000
        if now > self._milliseconds:
            self._milliseconds, self._counter = now, secrets.randbits(8)
        elif self._counter == 0xFFF:
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


def turn_event_id(answer_id: str, revision: int) -> str:
    """The id of a turn's event; `revision` is FINISHED or ERASED."""
    return str(uuid.uuid5(TURN_NAMESPACE, f"{answer_id}/{revision}"))
