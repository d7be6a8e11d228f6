"""Projections: tables updated in the ledger's transactions, and rebuilt when behind.

A table created by a new release starts behind and is filled from the committed objects. While
replicas of the old release commit without updating the table, the table falls behind again and is
rebuilt.

Some tables contain the latest value per key, in the order of acceptance: a value accepted earlier
never replaces a value accepted later.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Protocol, TypeVar

import pyarrow.compute as pc
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Table,
    and_,
    delete,
    func,
    insert,
    select,
    tuple_,
)

from services.chassis.telemetry import fields
from services.chassis.threads import run_to_end
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore, ObjectStoreError
from services.feedback.lake.readable_segments import (
    PAGE_SIZE,
    DamagedObjectError,
    pages,
    read_segment,
    readable_segments,
)
from services.feedback.lake.removed_rows import erased_row_mask, retracted_answers, retracted_rows
from services.feedback.sink import Position
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError, chunks

CHECK_SECONDS = 300.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Projection:
    """Projected table, its position in each log, and the update from rows of an object."""

    table: Table
    positions: Table
    apply_rows: Callable[[Connection, Sequence[parquet.Row]], None]


def catch_up(projection: Projection, ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild the table from the committed objects if its positions differ from the ledger.

    Returns True after a rebuild. Rows removed by compaction are missing from a rebuilt table, for
    example expired rows.

    Raises:
        DamagedObjectError: An object is missing or damaged.
        ObjectStoreError: The store does not answer.
        LedgerUnavailableError: The database does not answer.
    """
    # Compare without locks first: the usual case must not block commits.
    with ledger.reading() as connection:
        if _projected_ends(connection, projection) == _ledger_ends(connection, stream):
            return False
    # Compare again under the lock: another replica may have rebuilt the table in between.
    with ledger.commits_blocked(stream) as connection:
        ends = _ledger_ends(connection, stream)
        if _projected_ends(connection, projection) == ends:
            return False
        erased, among = erased_row_mask(connection, stream), partial(retracted_answers, connection)
        connection.execute(delete(projection.table))
        connection.execute(delete(projection.positions))
        # No compacted segment can be published meanwhile, so no listed object is deleted before the
        # read.
        for item in chain.from_iterable(
            pages(lambda after: readable_segments(connection, stream, after, PAGE_SIZE))
        ):
            rows = read_segment(store, item)
            left_out = pc.or_(erased.mask(rows), retracted_rows(rows, among))
            projection.apply_rows(connection, parquet.to_rows(rows.filter(pc.invert(left_out))))
        for (topic_id, partition), end_offset in ends.items():
            _write(connection, projection.positions, topic_id, partition, end_offset)
    log.info("projection rebuilt from objects", extra=fields(table=projection.table.name))
    return True


async def catch_up_periodically(
    catch_ups: Callable[[], object], every_seconds: float = CHECK_SECONDS
) -> None:
    """Compare and rebuild periodically until cancelled; failures are retried at the next period."""
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await run_to_end(catch_ups)
        except (DamagedObjectError, ObjectStoreError, LedgerUnavailableError) as error:
            log.warning(
                "projections could not be compared with the ledger",
                extra=fields(error=type(error).__name__),
            )


def _ledger_ends(connection: Connection, stream: str) -> dict[tuple[str, int], int]:
    segments = tables.segments.c
    ends = select(
        segments.topic_id, segments.partition, func.max(segments.end_offset).label("end_offset")
    )
    return _ends(
        connection.execute(
            ends.where(segments.stream == stream).group_by(segments.topic_id, segments.partition)
        )
    )


def _projected_ends(connection: Connection, projection: Projection) -> dict[tuple[str, int], int]:
    table = projection.positions.c
    return _ends(connection.execute(select(table.topic_id, table.partition, table.end_offset)))


def _ends(rows: Iterable[Row[Any]]) -> dict[tuple[str, int], int]:
    return {(row.topic_id, row.partition): row.end_offset for row in rows}


def advance_position(connection: Connection, positions: Table, position: Position) -> None:
    """Record the new position of the table.

    If the table was behind the batch, the position stays unchanged and causes a rebuild.
    """
    here = (positions.c.topic_id == position.topic_id) & (
        positions.c.partition == position.partition
    )
    # A partition's ledger begins at offset 0.
    reached = connection.execute(select(positions.c.end_offset).where(here)).scalar() or 0
    if reached == position.start_offset:
        connection.execute(delete(positions).where(here))
        _write(connection, positions, position.topic_id, position.partition, position.end_offset)


def _write(
    connection: Connection, positions: Table, topic_id: str, partition: int, end_offset: int
) -> None:
    connection.execute(
        insert(positions).values(topic_id=topic_id, partition=partition, end_offset=end_offset)
    )


class LatestValue(Protocol):
    """Value of a table; its fields are columns."""

    def replaces(self, other: Any) -> bool:
        """Return True if this value replaces another value or None."""


KeyT = TypeVar("KeyT", tuple[str, str], tuple[str, str, str])
ValueT = TypeVar("ValueT", bound=LatestValue)


def newer(value: Mapping[KeyT, ValueT], before: Mapping[KeyT, ValueT]) -> dict[KeyT, ValueT]:
    """Return the values that replace an earlier value."""
    return {key: value for key, value in value.items() if value.replaces(before.get(key))}


def upsert_latest(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    changes: Iterable[tuple[KeyT, ValueT]],
    read: Callable[[Connection, Collection[KeyT]], Mapping[KeyT, ValueT]],
) -> None:
    """Write the last change of each key.

    Args:
        connection: Open transaction.
        table: Table with the columns of key and value.
        names: Columns of the key.
        changes: Keys and values in order.
        read: Returns the stored values of some keys.
    """
    latest: dict[KeyT, ValueT] = {}
    for key, value in changes:
        if value.replaces(latest.get(key)):
            latest[key] = value
    before = read(connection, latest.keys())
    moved = newer(latest, before)
    for chunk in chunks(moved.keys() & before.keys()):
        connection.execute(delete(table).where(key_in(table, names, chunk)))
    if moved:
        rows = [dict(zip(names, key, strict=True)) | vars(value) for key, value in moved.items()]
        connection.execute(insert(table), rows)


def key_in(table: Table, names: Sequence[str], keys: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that selects the rows of some keys.

    The condition on the first column is implied. SQLite scans the table without it, because it uses
    no index for a list of tuples.
    """
    first = table.c[names[0]].in_(sorted({key[0] for key in keys}))
    return and_(first, tuple_(*(table.c[name] for name in names)).in_(keys))
