"""Outbox of events of votes and reviews for the feedback service.

Any replica may send any row: the feedback service recognises events by id, and events have no
order. Events of quarantined accounts wait for the decision of an operator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.identity import Caller
from services.review.store.database import transaction
from services.review.store.tables import accounts, outbox

MAX_ROWS = 100


@dataclass(frozen=True)
class OutboxRow:
    """An encoded event with the user for whom the event is sent."""

    id: int
    caller: Caller
    payload: bytes


@dataclass(frozen=True)
class Waiting:
    """Due rows, oldest first, and the number of all rows, without those of quarantined accounts."""

    due: Sequence[OutboxRow]
    count: int


class SqlOutbox:
    """Implements `relay.Outbox`; every method raises UnavailableError without the database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def waiting(self, now_us: int) -> Waiting:
        held = (
            select(accounts.c.principal)
            .where(accounts.c.principal == outbox.c.principal, accounts.c.quarantined.is_(True))
            .exists()
        )
        due = (
            select(outbox)
            .where(~held, outbox.c.attempt_us <= now_us)
            .order_by(outbox.c.id)
            .limit(MAX_ROWS)
        )
        async with transaction(self._engine) as connection:
            count = await connection.execute(select(func.count()).select_from(outbox).where(~held))
            rows = (await connection.execute(due)).all()
            return Waiting(
                [OutboxRow(row.id, Caller(row.tenant, row.user), row.payload) for row in rows],
                int(count.scalar_one()),
            )

    async def remove(self, row: OutboxRow) -> None:
        async with transaction(self._engine) as connection:
            await connection.execute(delete(outbox).where(outbox.c.id == row.id))

    async def postpone(self, row: OutboxRow, until_us: int) -> None:
        statement = update(outbox).where(outbox.c.id == row.id).values(attempt_us=until_us)
        async with transaction(self._engine) as connection:
            await connection.execute(statement)
