"""Which replica relays: one row, taken by one and renewed by its signs of life. No clock of one
machine is compared with another's.

A holder is taken over when its term stood still for the whole lease on the clock of whoever
watches. Two may then believe for a moment that they relay: each sends from the oldest row, so that
readers, who know events by their ids, still see one order.
"""

import time
import uuid
from collections.abc import Callable

from sqlalchemy import Connection

from services.session.statements import LEASE, RELEASE_LEASE, TAKE_LEASE


class Lease:
    """One replica's view of the lease; its methods are parts of a transaction."""

    def __init__(self, seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._me = str(uuid.uuid4())
        self._seconds = seconds
        self._monotonic = monotonic
        self._seen: tuple[str, int] | None = None
        self._seen_at = 0.0

    def take(self, connection: Connection) -> bool:
        """Take or renew it; False while another one holds it and lives."""
        holder, term = connection.execute(LEASE).one()
        if (holder, term) != self._seen:
            self._seen, self._seen_at = (holder, term), self._monotonic()
        if holder not in ("", self._me) and self._monotonic() - self._seen_at < self._seconds:
            return False
        connection.execute(TAKE_LEASE, {"by": self._me})
        return True

    def release(self, connection: Connection) -> None:
        """Leave it to whoever is next."""
        connection.execute(RELEASE_LEASE, {"by": self._me})
