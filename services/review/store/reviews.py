"""Queue, reviews and resolutions in the database.

Items are read under the tenant of the reviewer, and never with words of the reviewer. A change of
an item's state holds the lock of its row.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Select, and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.chassis.errors import FailedPreconditionError
from services.review.reviewing.agreement import Counts
from services.review.reviewing.disagreement import Verdict
from services.review.reviewing.events import review_events
from services.review.reviewing.item import Item, ItemState, Opinion, Review, Reviewer
from services.review.reviewing.reviews import (
    Added,
    Disagreement,
    Judge,
    closed_item,
    no_such_item,
    other_resolution,
)
from services.review.store.database import insert_new, transaction
from services.review.store.items import (
    decode_item,
    decode_opinion,
    ids_of_page,
    judgement_values,
    page_characters,
    resolution_of,
    reviews_by_item,
    rows_by_id,
)
from services.review.store.tables import items, leases, outbox, resolutions, reviews, skips


class SqlReviewStore:
    """Implements `reviews.ReviewStore` and `agreement.OpinionSource`.

    Every method raises UnavailableError while the database is unavailable.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def next_item(
        self, reviewer: Reviewer, raters: int, now_us: int, until_us: int
    ) -> tuple[Item, int] | None:
        free = _free(reviewer, raters, now_us)
        lease = select(leases.c.item_id).where(leases.c.rater == reviewer.principal)
        own = free.where(items.c.item_id == lease.scalar_subquery())
        # Items with reviews first, so that items are completed before others are begun.
        first = free.order_by(_reviews_of().desc(), items.c.create_us, items.c.item_id).limit(1)
        async with transaction(self._engine) as connection:
            row = (await connection.execute(own.with_for_update(of=items))).first()
            while row is None:
                found = (await connection.execute(first.with_for_update(of=items))).first()
                if found is None:
                    return None
                # Another reviewer may have leased the item while this call waited for the lock.
                again = free.where(items.c.item_id == found.item_id)
                row = (await connection.execute(again)).first()
            await connection.execute(delete(leases).where(leases.c.rater == reviewer.principal))
            lease_row = {
                "rater": reviewer.principal,
                "item_id": row.item_id,
                "expire_us": until_us,
            }
            await insert_new(connection, leases, lease_row)
            count = select(func.count()).select_from(free.subquery())
            remaining = (await connection.execute(count)).scalar_one()
            return decode_item(row), int(remaining)

    async def item(self, reviewer: Reviewer, item_id: str) -> Item | None:
        async with transaction(self._engine) as connection:
            query = _visible(reviewer).where(items.c.item_id == item_id)
            row = (await connection.execute(query)).one_or_none()
            return None if row is None else decode_item(row)

    async def add_review(
        self, reviewer: Reviewer, item: Item, review: Review, decide: Judge
    ) -> Added:
        async with transaction(self._engine) as connection:
            state = await _lock(connection, reviewer, item)
            given = (await reviews_by_item(connection, [item.item_id]))[item.item_id]
            for stored in given:
                if stored.rater == review.rater:
                    return Added(stored)
            if state is not ItemState.OPEN:
                raise closed_item()
            values = judgement_values(review.judgement) | {
                "item_id": item.item_id,
                "rater": review.rater,
                "user": review.user,
                "submit_us": review.submit_us,
            }
            await connection.execute(reviews.insert().values(values))
            await connection.execute(
                delete(leases).where(
                    leases.c.rater == reviewer.principal, leases.c.item_id == item.item_id
                )
            )
            verdict = decide([*given, review])
            await connection.execute(
                update(items)
                .where(items.c.item_id == item.item_id)
                .values(state=verdict.state, difference=verdict.difference)
            )
            if verdict.state is ItemState.COMPLETE:
                await _complete(connection, item, verdict.counted)
            return Added(review, verdict)

    async def skip(self, reviewer: Reviewer, item_id: str) -> None:
        own = {"item_id": item_id, "rater": reviewer.principal}
        async with transaction(self._engine) as connection:
            query = _visible(reviewer).where(items.c.item_id == item_id).with_for_update(read=True)
            # Otherwise the item was removed since the check.
            if (await connection.execute(query)).first():
                await insert_new(connection, skips, own)
                await connection.execute(
                    delete(leases).where(
                        leases.c.rater == reviewer.principal, leases.c.item_id == item_id
                    )
                )

    async def disagreements(
        self, reviewer: Reviewer, before: tuple[int, str] | None, most: int
    ) -> tuple[Sequence[Disagreement], bool]:
        page = (
            _visible(reviewer)
            .where(items.c.state == ItemState.DISAGREED)
            .order_by(items.c.difference.desc(), items.c.item_id)
            .with_only_columns(items.c.item_id, page_characters())
        )
        if before is not None:
            difference, item_id = before
            later = and_(items.c.difference == difference, items.c.item_id > item_id)
            page = page.where(or_(items.c.difference < difference, later))
        async with transaction(self._engine) as connection:
            ids, has_more = await ids_of_page(connection, page, most)
            rows = await rows_by_id(connection, ids)
            given = await reviews_by_item(connection, ids)
        return [
            Disagreement(decode_item(rows[item_id]), given[item_id], rows[item_id].difference)
            for item_id in ids
        ], has_more

    async def resolve(
        self, reviewer: Reviewer, item: Item, resolution: Review, *, own_allowed: bool
    ) -> Added:
        async with transaction(self._engine) as connection:
            state = await _lock(connection, reviewer, item)
            query = select(resolutions).where(resolutions.c.item_id == item.item_id)
            stored = resolution_of((await connection.execute(query)).one_or_none())
            if stored and stored.rater != resolution.rater:
                raise other_resolution()
            if stored:
                return Added(stored)
            if state is not ItemState.DISAGREED:
                raise FailedPreconditionError(
                    "reviewers do not disagree on the item",
                    reason="NO_DISAGREEMENT",
                    field="item_id",
                    limit="an item of ListDisagreements",
                )
            given = (await reviews_by_item(connection, [item.item_id]))[item.item_id]
            if not own_allowed and any(one.rater == resolution.rater for one in given):
                raise FailedPreconditionError(
                    "the caller has judged the item",
                    reason="OWN_REVIEW",
                    field="item_id",
                    limit="an item that the caller has not judged",
                )
            values = judgement_values(resolution.judgement) | {
                "item_id": item.item_id,
                "rater": resolution.rater,
                "submit_us": resolution.submit_us,
            }
            await connection.execute(resolutions.insert().values(values))
            await connection.execute(
                update(items)
                .where(items.c.item_id == item.item_id)
                .values(state=ItemState.COMPLETE)
            )
            await _complete(connection, item, [resolution])
            return Added(resolution, Verdict(ItemState.COMPLETE, [resolution]))

    async def counts(self, tenant: str) -> Counts:
        own = select(func.count()).select_from(items).where(items.c.tenant == tenant)
        given = (
            select(func.count())
            .select_from(reviews.join(items, items.c.item_id == reviews.c.item_id))
            .where(items.c.tenant == tenant)
        )
        async with transaction(self._engine) as connection:

            async def number(query: Select[Any]) -> int:
                return int((await connection.execute(query)).scalar_one())

            return Counts(
                items=await number(own),
                reviews=await number(given),
                disagreements=await number(own.where(items.c.state == ItemState.DISAGREED)),
            )

    async def opinions(self, tenant: str) -> Sequence[Sequence[str]]:
        query = (
            select(reviews.c.item_id, reviews.c.opinion)
            .join_from(reviews, items, items.c.item_id == reviews.c.item_id)
            .where(items.c.tenant == tenant)
            .order_by(reviews.c.submit_us, reviews.c.rater)
        )
        found: dict[str, list[str]] = {}
        async with transaction(self._engine) as connection:
            for item_id, opinion in await connection.execute(query):
                found.setdefault(item_id, []).append(opinion)
        return list(found.values())

    def decode(self, opinion: str) -> Opinion:
        return decode_opinion(opinion)


def _visible(reviewer: Reviewer) -> Select[Any]:
    """Return the query for items of the reviewer's tenant without words of the reviewer."""
    return select(items).where(
        items.c.tenant == reviewer.tenant, items.c.principal != reviewer.principal
    )


def _reviews_of() -> Any:
    """Return the expression for the number of reviews of an item."""
    return (
        select(func.count())
        .select_from(reviews)
        .where(reviews.c.item_id == items.c.item_id)
        .scalar_subquery()
    )


def _free(reviewer: Reviewer, raters: int, now_us: int) -> Select[Any]:
    """Return the query for items that the reviewer can judge now.

    Other reviewers work on an item under leases. An open item needs `raters` reviews, or one more
    if it has as many.
    """
    me = reviewer.principal
    done = select(reviews.c.item_id).where(
        reviews.c.item_id == items.c.item_id, reviews.c.rater == me
    )
    skipped = select(skips.c.item_id).where(skips.c.item_id == items.c.item_id, skips.c.rater == me)
    leased = (
        select(func.count())
        .select_from(leases)
        .where(
            leases.c.item_id == items.c.item_id,
            leases.c.rater != me,
            leases.c.expire_us > now_us,
        )
        .scalar_subquery()
    )
    given = _reviews_of()
    return (
        _visible(reviewer)
        .where(items.c.state == ItemState.OPEN, ~done.exists(), ~skipped.exists())
        .where(or_(given + leased < raters, and_(given >= raters, leased == 0)))
    )


async def _lock(connection: AsyncConnection, reviewer: Reviewer, item: Item) -> ItemState:
    """Lock an item until the end of the transaction; return its state.

    Raises:
        NotFoundError: the item was removed.
    """
    query = _visible(reviewer).where(items.c.item_id == item.item_id).with_for_update()
    row = (await connection.execute(query)).first()
    if row is None:
        raise no_such_item()
    return ItemState(row.state)


async def _complete(connection: AsyncConnection, item: Item, counted: Sequence[Review]) -> None:
    """Add the events of the reviews that count to the outbox, and remove the reviewers' names."""
    for review in counted:
        for event in review_events(item, review):
            row = {
                "tenant": item.tenant,
                "user": review.user,
                "principal": review.rater,
                "owner": item.principal,
                "payload": event.SerializeToString(deterministic=True),
                "create_us": review.submit_us,
                "attempt_us": review.submit_us,
            }
            await connection.execute(outbox.insert().values(row))
    await connection.execute(
        update(reviews).where(reviews.c.item_id == item.item_id).values(user="")
    )
