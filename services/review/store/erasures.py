"""Removal of a user's rows, and the number of the last applied erasure."""

from sqlalchemy import delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from services.review.store.database import transaction
from services.review.store.tables import accounts, applied_erasures, battles, outbox


class SqlErasureStore:
    """Implements `erasure.ErasureStore` with the review database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def last_erasure(self) -> int:
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(applied_erasures.c.number))
            return int(found.scalar_one())

    async def erase(self, principal: str, until_us: int, number: int) -> None:
        own, later = battles.c.principal == principal, battles.c.create_us > until_us
        remaining = exists().where(own, later)
        async with transaction(self._engine) as connection:
            # Votes and answers follow their battle. The event of a vote is older than the erasure
            # if its battle is: a later event of such a battle has nothing to refer to.
            await connection.execute(delete(battles).where(own, ~later))
            await connection.execute(
                delete(outbox).where(
                    outbox.c.principal == principal, outbox.c.create_us <= until_us
                )
            )
            await connection.execute(
                delete(accounts).where(accounts.c.principal == principal, ~remaining)
            )
            # Another replica may have applied later entries.
            await connection.execute(
                update(applied_erasures)
                .where(applied_erasures.c.number < number)
                .values(number=number)
            )
