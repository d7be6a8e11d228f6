"""Outbox of turn records for the feedback service, and the lease of the replica that relays them.

The row ids of one conversation are in order, because writers hold the lock of its row.

The lease is one database row with the name of its holder. Clocks of different machines are never
compared. A replica takes over when the term of the holder did not change for the whole lease,
measured with the replica's own clock. For a moment two replicas may relay: both send from the
oldest row, so that readers, which recognise events by id, still see one order.
"""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from services.session.store.database import Database
from services.session.store.tables import (
    COUNT_RECORDS,
    LEASE,
    PUBLISH_REFUSED,
    REFUSE_RECORD,
    REFUSED_RECORDS,
    RELEASE_LEASE,
    REMOVE_RELAYED,
    TAKE_LEASE,
    WAITING_RECORDS,
)

# Limits of AppendTurns: 500 turns and 2 MiB, protobuf framing of each turn included.
MAX_BATCH_TURNS = 500
MAX_BATCH_BYTES = 2 * 1024 * 1024
FRAMING_BYTES = 8


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


@dataclass(frozen=True)
class OutboxRow:
    """An encoded turn record in the outbox."""

    id: int
    payload: bytes


@dataclass(frozen=True)
class RefusedRecord:
    """A record that was set aside; `is_erasure`: the erased answer stays in training meanwhile."""

    id: int
    is_erasure: bool


@dataclass(frozen=True)
class Batch:
    """The oldest rows that fit into one call, and the number of all waiting rows.

    `rows` is empty if another replica relays.
    """

    rows: Sequence[OutboxRow]
    waiting: int


class Outbox:
    """The waiting records and the lease of the relay."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    async def claim(self) -> Batch:
        """Return the next batch; a batch with rows includes the lease."""
        return await self._database.write(self._claim)

    def _claim(self, connection: Connection) -> Batch:
        waiting = connection.execute(COUNT_RECORDS).scalar_one()
        if not waiting or not self._lease.acquire(connection):
            return Batch((), waiting)
        found = connection.execute(WAITING_RECORDS, {"size": MAX_BATCH_TURNS})
        chosen: list[OutboxRow] = []
        total = 0
        for row in found:
            total += len(row.payload) + FRAMING_BYTES
            # At least one row: an oversized record must be refused by the feedback service, not
            # retried without end.
            if chosen and total > MAX_BATCH_BYTES:
                break
            chosen.append(OutboxRow(row.id, row.payload))
        return Batch(chosen, waiting)

    async def renew_lease(self) -> None:
        """Renew the lease during a long call."""
        await self._database.write(self._lease.acquire)

    async def remove(self, rows: Sequence[OutboxRow], *, release: bool) -> None:
        """Remove acknowledged rows; `release` also releases the lease."""

        def work(connection: Connection) -> None:
            connection.execute(REMOVE_RELAYED, {"ids": [row.id for row in rows]})
            if release:
                self._lease.release(connection)

        await self._database.write(work)

    async def refuse(self, row: OutboxRow) -> None:
        """Mark a row as refused: later rows are relayed, and the row stays for inspection."""
        await self._database.write(
            lambda connection: connection.execute(REFUSE_RECORD, {"row_id": row.id})
        )

    async def refused(self) -> Sequence[RefusedRecord]:
        """Return the refused rows, oldest first."""
        found = await self._database.read(
            lambda connection: connection.execute(REFUSED_RECORDS).all()
        )
        return [RefusedRecord(row.id, row.erased) for row in found]

    async def publish_refused(self) -> int:
        """Let the relay send the refused rows again; return their number."""
        return await self._database.write(
            lambda connection: connection.execute(PUBLISH_REFUSED).rowcount
        )
