"""Items in the database: addition, removal, and pages with reviews."""

import json
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from sqlalchemy import Row, Select, delete, func, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.contracts.chat import Role, Task
from services.contracts.identifiers import created_us
from services.review.reviewing.item import (
    AppealedBlock,
    BlockDecision,
    ContextMessage,
    DrawnAnswer,
    DrawRule,
    Item,
    ItemState,
    Judgement,
    Opinion,
    Review,
)
from services.review.reviewing.items import ReviewedItem
from services.review.store.database import insert_new, transaction
from services.review.store.tables import erased_principals, items, outbox, resolutions, reviews

# Texts of a page; with UTF-8 and the escapes of JSON less than the largest gRPC message, 4 MiB.
MAX_PAGE_CHARACTERS = 500_000


class SqlItemStore:
    """Implements `items.ItemStore`; every method raises UnavailableError without the database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, added: Sequence[Item], create_us: int) -> int:
        async with transaction(self._engine) as connection:
            return await insert_items(connection, added, create_us)

    async def remove(self, principals: Sequence[str], item_ids: Sequence[str]) -> int:
        async with transaction(self._engine) as connection:
            await connection.execute(delete(outbox).where(outbox.c.owner.in_(principals)))
            # Reviews, resolutions, leases and skips follow their item.
            drawn = items.c.principal.in_(principals) & (items.c.rule != DrawRule.APPEAL)
            chosen = or_(drawn, items.c.item_id.in_(item_ids))
            done = await connection.execute(delete(items).where(chosen))
            return int(done.rowcount)

    async def remove_until(self, create_us: int) -> int:
        async with transaction(self._engine) as connection:
            done = await connection.execute(delete(items).where(items.c.create_us <= create_us))
            return int(done.rowcount)

    async def reviewed(
        self, after: tuple[int, str], most: int
    ) -> tuple[Sequence[ReviewedItem], bool]:
        page = (
            select(items.c.item_id, page_characters())
            .where(select(reviews.c.item_id).where(reviews.c.item_id == items.c.item_id).exists())
            .where(tuple_(items.c.create_us, items.c.item_id) > after)
            .order_by(items.c.create_us, items.c.item_id)
        )
        async with transaction(self._engine) as connection:
            ids, has_more = await ids_of_page(connection, page, most)
            return await reviewed_items(connection, ids), has_more


async def insert_items(connection: AsyncConnection, added: Sequence[Item], create_us: int) -> int:
    """Insert new items, without those from before an erasure of their user; return the number."""
    found = 0
    principals = {item.principal for item in added}
    query = select(erased_principals).where(erased_principals.c.principal.in_(principals))
    erased = {row.principal: row.erase_us for row in await connection.execute(query)}
    for item in added:
        message_us = created_us(item.message_id)
        if message_us <= erased.get(item.principal, -1):
            continue
        values = {
            "item_id": item.item_id,
            "tenant": item.tenant,
            "principal": item.principal,
            "message_us": message_us,
            "rule": item.rule,
            "content": encode_item(item),
            "state": ItemState.OPEN,
            "difference": 0,
            "create_us": create_us,
        }
        found += await insert_new(connection, items, values)
    return found


async def reviewed_items(connection: AsyncConnection, ids: Sequence[str]) -> Sequence[ReviewedItem]:
    """Return items with their reviews and resolutions, in the order of the ids."""
    rows = await rows_by_id(connection, ids)
    given = await reviews_by_item(connection, ids)
    query = select(resolutions).where(resolutions.c.item_id.in_(ids))
    resolved = {row.item_id: row for row in await connection.execute(query)}
    return [
        ReviewedItem(
            item=decode_item(rows[item_id]),
            create_us=rows[item_id].create_us,
            reviews=given[item_id],
            resolution=resolution_of(resolved.get(item_id)),
            is_complete=rows[item_id].state == ItemState.COMPLETE,
        )
        for item_id in ids
    ]


def page_characters() -> Any:
    """Return the expression for the number of characters of an item with its reviews."""
    texts = func.length(reviews.c.written_answer) + func.length(reviews.c.comment)
    given = select(func.sum(texts)).where(reviews.c.item_id == items.c.item_id).scalar_subquery()
    return func.length(items.c.content) + func.coalesce(given, 0)


async def ids_of_page(
    connection: AsyncConnection, query: Select[Any], most: int
) -> tuple[list[str], bool]:
    """Return the ids of the items of a page, and whether further items follow.

    Args:
        connection: in a transaction.
        query: ids and numbers of characters, in order.
        most: items on a page.
    """
    ids: list[str] = []
    characters = 0
    for item_id, size in (await connection.execute(query.limit(most + 1))).all():
        characters += size
        if len(ids) == most or (ids and characters > MAX_PAGE_CHARACTERS):
            return ids, True
        ids.append(item_id)
    return ids, False


async def rows_by_id(connection: AsyncConnection, ids: Sequence[str]) -> dict[str, Row[Any]]:
    """Return rows of items by id."""
    found = await connection.execute(select(items).where(items.c.item_id.in_(ids)))
    return {row.item_id: row for row in found}


async def reviews_by_item(
    connection: AsyncConnection, ids: Sequence[str]
) -> dict[str, list[Review]]:
    """Return the reviews of items, oldest first."""
    query = (
        select(reviews)
        .where(reviews.c.item_id.in_(ids))
        .order_by(reviews.c.submit_us, reviews.c.rater)
    )
    found: dict[str, list[Review]] = {item_id: [] for item_id in ids}
    for row in await connection.execute(query):
        found[row.item_id].append(Review(row.rater, row.user, judgement_of(row), row.submit_us))
    return found


def resolution_of(row: Row[Any] | None) -> Review | None:
    """Convert a row of a resolution."""
    return row and Review(row.rater, "", judgement_of(row), row.submit_us)


def judgement_of(row: Row[Any]) -> Judgement:
    """Convert the columns of a judgement."""
    return Judgement(decode_opinion(row.opinion), row.written_answer, row.comment)


def judgement_values(judgement: Judgement) -> dict[str, str]:
    """Return the columns of a judgement."""
    return {
        "opinion": _dumps(astuple(judgement.opinion)),
        "written_answer": judgement.written_answer,
        "comment": judgement.comment,
    }


def decode_opinion(text: str) -> Opinion:
    """Decode the column of scores and ranks."""
    # Opinions from before appeals have no decision.
    scores, ranks, *block = json.loads(text)
    decision = BlockDecision(block[0]) if block and block[0] else None
    return Opinion(tuple(tuple(each) for each in scores), tuple(ranks), decision)


def encode_item(item: Item) -> str:
    """Encode the content of an item; U+0000 is escaped, since Postgres stores none."""
    return _dumps(
        {
            "conversation_id": item.conversation_id,
            "message_id": item.message_id,
            "arm": item.arm,
            "rule": item.rule,
            "task": item.task,
            "context": [[message.role, message.text] for message in item.context],
            "answers": [
                [answer.text, answer.model_version, answer.message_id] for answer in item.answers
            ],
            "appeal": item.appeal and astuple(item.appeal),
        }
    )


def decode_item(row: Row[Any]) -> Item:
    """Decode a row of an item."""
    content = json.loads(row.content)
    appeal = content.get("appeal")
    return Item(
        item_id=row.item_id,
        tenant=row.tenant,
        principal=row.principal,
        conversation_id=content["conversation_id"],
        message_id=content["message_id"],
        arm=content["arm"],
        rule=DrawRule(content["rule"]),
        task=Task(content["task"]),
        context=tuple(ContextMessage(Role(role), text) for role, text in content["context"]),
        answers=tuple(DrawnAnswer(*answer) for answer in content["answers"]),
        appeal=AppealedBlock(*appeal) if appeal else None,
    )


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
