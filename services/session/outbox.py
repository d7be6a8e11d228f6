"""The records of turns that wait for the feedback service. Their ids grow within a conversation:
writers hold its row's lock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from services.session.database import Database
from services.session.lease import Lease
from services.session.message import OutboxRow
from services.session.statements import (
    COUNT_RECORDS,
    REFUSE_RECORD,
    REMOVE_RELAYED,
    WAITING_RECORDS,
)

# AppendTurns takes 500 turns and 2 MiB; some bytes a turn are kept for the framing.
MAX_BATCH_TURNS = 500
MAX_BATCH_BYTES = 2 * 1024 * 1024
FRAMING_BYTES = 8


@dataclass(frozen=True)
class Batch:
    """The oldest rows that one call may carry, none if another replica relays; and how many wait in
    all.
    """

    rows: Sequence[OutboxRow]
    waiting: int

    @property
    def is_last(self) -> bool:
        """Whether nothing waits behind it."""
        return len(self.rows) == self.waiting


class Outbox:
    """The rows, and the lease of whoever relays them."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    async def claim(self) -> Batch:
        """What to relay next. Holds the lease if there is something."""
        return await self._database.write(self._claim)

    def _claim(self, connection: Connection) -> Batch:
        waiting = connection.execute(COUNT_RECORDS).scalar_one()
        if not waiting or not self._lease.take(connection):
            return Batch((), waiting)
        found = connection.execute(WAITING_RECORDS, {"size": MAX_BATCH_TURNS})
        return Batch(_fitting([OutboxRow(row.id, row.payload) for row in found]), waiting)

    async def keep(self) -> None:
        """A sign of life, while a call takes long."""
        await self._database.write(self._lease.take)

    async def remove(self, rows: Sequence[OutboxRow], *, release: bool) -> None:
        """They were acknowledged; `release`: whoever has the next record relays it."""

        def work(connection: Connection) -> None:
            connection.execute(REMOVE_RELAYED, {"ids": [row.id for row in rows]})
            if release:
                self._lease.release(connection)

        await self._database.write(work)

    async def refuse(self, row: OutboxRow) -> None:
        """Keep it aside, so that it holds nothing up and a person can look at it."""
        await self._database.write(
            lambda connection: connection.execute(REFUSE_RECORD, {"row_id": row.id})
        )


def _fitting(rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    """As many as fit into one call; always at least one, so that a giant is refused by name and not
    retried for ever.
    """
    chosen: list[OutboxRow] = []
    total = 0
    for row in rows:
        total += len(row.payload) + FRAMING_BYTES
        if chosen and total > MAX_BATCH_BYTES:
            break
        chosen.append(row)
    return chosen
