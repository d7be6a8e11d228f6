"""Periodic comparison of projections, also after failures."""

import asyncio
from contextlib import suppress

import pytest
from sqlalchemy import Table, select, text
from sqlalchemy.dialects import sqlite

from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.projections import answers, experiments, remarks, signals, thumbs
from services.feedback.projections.projection import catch_up_periodically, key_in
from services.feedback.store import tables
from tests.services.feedback.databases import memory_sqlite


async def test_an_unavailable_store_is_retried() -> None:
    looks = []

    def catch_up() -> None:
        looks.append("away" if not looks else "there")
        if looks == ["away"]:
            raise ObjectStoreError("away")

    looking = asyncio.create_task(catch_up_periodically(catch_up, every_seconds=0.001))
    async with asyncio.timeout(30):
        while len(looks) < 3:
            await asyncio.sleep(0.001)
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    assert looks[:3] == ["away", "there", "there"]


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (tables.thumbs, thumbs.KEY_COLUMNS),
        (tables.remarks, remarks.KEY_COLUMNS),
        (tables.signals, signals.KEY_COLUMNS),
        (tables.answers, answers.KEY_COLUMNS),
        (tables.answers, answers.PARENT_COLUMNS),
        (tables.exposures, experiments.KEY_COLUMNS),
    ],
)
def test_rows_of_keys_are_found_by_an_index_of_sqlite(table: Table, names: tuple[str, ...]) -> None:
    """A commit must not take longer with each stored row."""
    keys = [tuple("ab"[number] for _ in names) for number in range(2)]
    query = select(table).where(key_in(table, names, keys))
    compiled = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    engine = memory_sqlite()
    with engine.begin() as connection:
        plan = [row.detail for row in connection.execute(text(f"EXPLAIN QUERY PLAN {compiled}"))]
    engine.dispose()
    assert plan[0].startswith(f"SEARCH {table.name} USING")
