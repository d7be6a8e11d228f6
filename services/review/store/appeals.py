"""Appeals in the database: items with the rule `appeal`."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.review.reviewing.appeals import AppealLimits
from services.review.reviewing.item import DrawRule, Item
from services.review.reviewing.items import DAY_US, ReviewedItem
from services.review.store.database import transaction
from services.review.store.items import insert_items, reviewed_items
from services.review.store.tables import items

IS_APPEAL = items.c.rule == DrawRule.APPEAL
# Appeals of a tenant are added one after the other, so that no concurrent call exceeds a limit.
# SQLite has one writer and needs no lock.
LOCK_TENANT = select(
    func.pg_advisory_xact_lock(
        bindparam("lock", int.from_bytes(b"APPEAL"), BigInteger)
        + func.hashtext(bindparam("tenant"))
    )
)


class SqlAppealStore:
    """Implements `appeals.AppealStore` with the review database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def appeal(self, item_id: str) -> ReviewedItem | None:
        query = select(items.c.item_id).where(IS_APPEAL, items.c.item_id == item_id)
        async with transaction(self._engine) as connection:
            ids = (await connection.execute(query)).scalars().all()
            return next(iter(await reviewed_items(connection, ids)), None)

    async def add_appeal(self, item: Item, create_us: int, limits: AppealLimits) -> None:
        recent = select(func.count()).where(
            IS_APPEAL, items.c.tenant == item.tenant, items.c.create_us > create_us - DAY_US
        )
        own = recent.where(items.c.principal == item.principal)
        async with transaction(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(LOCK_TENANT, {"tenant": item.tenant})
            of_user = (await connection.execute(own)).scalar_one()
            of_tenant = (await connection.execute(recent)).scalar_one()
            limits.check(of_user, of_tenant)
            await insert_items(connection, [item], create_us)

    async def appeals_of(self, principal: str, most: int) -> Sequence[ReviewedItem]:
        query = (
            select(items.c.item_id)
            .where(IS_APPEAL, items.c.principal == principal)
            .order_by(items.c.create_us.desc(), items.c.item_id)
            .limit(most)
        )
        async with transaction(self._engine) as connection:
            return await reviewed_items(
                connection, (await connection.execute(query)).scalars().all()
            )
