"""Lease of the relay: one database row that names the replica that relays the outbox.

Clocks of different machines are never compared. A replica takes over when the term of the holder
did not change for the whole lease, measured with the replica's own clock. For a moment two replicas
may relay: both send from the oldest row, so that readers, which recognise events by id, still see
one order.
"""

import time
import uuid
from collections.abc import Callable

from sqlalchemy import Connection

from services.session.store.statements import LEASE, RELEASE_LEASE, TAKE_LEASE


class Lease:
    """The lease as seen by one replica; methods run within a transaction of the caller."""

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._holder_id = str(uuid.uuid4())
        self._seconds = seconds
        self._monotonic = monotonic
        self._last_seen: tuple[str, int] | None = None
        self._changed_at = 0.0

    def acquire(self, connection: Connection) -> bool:
        """Acquire or renew the lease; return False while another replica holds and renews it."""
        holder, term = connection.execute(LEASE).one()
        now = self._monotonic()
        if (holder, term) != self._last_seen:
            self._last_seen, self._changed_at = (holder, term), now
        # The lease counts from the last change that this replica saw, so a fresh process waits a
        # full lease before a takeover.
        if holder not in ("", self._holder_id) and now - self._changed_at < self._seconds:
            return False
        connection.execute(TAKE_LEASE, {"by": self._holder_id})
        return True

    def release(self, connection: Connection) -> None:
        """Release the lease, so that any replica can acquire the lease at once."""
        connection.execute(RELEASE_LEASE, {"by": self._holder_id})
