"""Removal of a user's rows, and the number of the last applied erasure."""

from sqlalchemy import delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.review.reviewing.item import ItemState
from services.review.store.database import insert_new, transaction
from services.review.store.tables import (
    accounts,
    applied_erasures,
    battles,
    erased_principals,
    items,
    leases,
    outbox,
    resolutions,
    reviews,
    skips,
)


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
            await _erase_items(connection, principal, until_us)
            await _erase_reviews(connection, principal, until_us)
            # Another replica may have applied later entries.
            await connection.execute(
                update(applied_erasures)
                .where(applied_erasures.c.number < number)
                .values(number=number)
            )


async def _erase_items(connection: AsyncConnection, principal: str, until_us: int) -> None:
    """Remove items with the user's words, and note the time for items that a draw adds later."""
    own = items.c.principal == principal, items.c.message_us <= until_us
    await connection.execute(delete(items).where(*own))
    # Also events about later words, if any: the outbox has no time of the words, and such an event
    # was made within the seconds since the erasure.
    await connection.execute(delete(outbox).where(outbox.c.owner == principal))
    known = {"principal": principal, "erase_us": until_us}
    if not await insert_new(connection, erased_principals, known):
        await connection.execute(
            update(erased_principals)
            .where(
                erased_principals.c.principal == principal,
                erased_principals.c.erase_us < until_us,
            )
            .values(erase_us=until_us)
        )


async def _erase_reviews(connection: AsyncConnection, principal: str, until_us: int) -> None:
    """Remove a reviewer's work; an item that waits for a resolution returns to the queue."""
    own = reviews.c.rater == principal, reviews.c.submit_us <= until_us
    judged = select(reviews.c.item_id).where(*own)
    await connection.execute(
        update(items)
        .where(items.c.state == ItemState.DISAGREED, items.c.item_id.in_(judged))
        .values(state=ItemState.OPEN, difference=0)
    )
    await connection.execute(delete(reviews).where(*own))
    await connection.execute(
        delete(resolutions).where(
            resolutions.c.rater == principal, resolutions.c.submit_us <= until_us
        )
    )
    for table in (leases, skips):
        await connection.execute(delete(table).where(table.c.rater == principal))
