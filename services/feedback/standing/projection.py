"""Tables that stand where the ledger does: each commit moves them in its own transaction; where they lag they are rebuilt.

A table made by a new release is behind on its first day, so it is filled from the committed objects then.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
from sqlalchemy import Connection, Row, Table, delete, func, insert, select

from services.feedback import tables
from services.feedback.lake import parquet
from services.feedback.lake.covers import served
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.served_object import read_served
from services.feedback.principals.gone import gone_rows
from services.feedback.sink.sink import Position


@dataclass(frozen=True)
class Projection:
    """A table, how far it reaches into each log, and how rows of an object move it."""

    table: Table
    positions: Table
    move: Callable[[Connection, Sequence[parquet.Row]], None]


def catch_up(projection: Projection, ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild the table from the committed objects if it does not stand where the ledger does. True if it was rebuilt.

    What compaction has left out is not there any more, so a rebuilt table does not know of rows that have expired.

    Raises:
        DamagedObjectError, ObjectStoreError, LedgerUnavailableError
    """
    with ledger.between_commits(stream) as connection:
        segments = tables.segments.c
        committed = select(
            segments.topic_id, segments.partition, func.max(segments.end_offset).label("end_offset")
        ).where(segments.stream == stream)
        ends = _ends(connection.execute(committed.group_by(segments.topic_id, segments.partition)))
        table = projection.positions
        if _ends(connection.execute(select(table.c.topic_id, table.c.partition, table.c.end_offset))) == ends:
            return False
        gone = gone_rows(connection, stream)
        connection.execute(delete(projection.table))
        connection.execute(delete(table))
        # Nobody publishes a cover meanwhile, so nothing that is listed here is deleted before it is read.
        for item in served(connection, stream):
            rows = read_served(store, item)
            projection.move(connection, parquet.to_rows(rows.filter(pc.invert(gone.of(rows)))))
        for (topic_id, partition), end_offset in ends.items():
            stand(connection, table, Position(topic_id, partition, end_offset))
    return True


def _ends(rows: Iterable[Row[Any]]) -> dict[tuple[str, int], int]:
    return {(row.topic_id, row.partition): row.end_offset for row in rows}


def stand(connection: Connection, positions: Table, position: Position) -> None:
    """Write down how far the table reaches now."""
    here = (positions.c.topic_id == position.topic_id) & (positions.c.partition == position.partition)
    connection.execute(delete(positions).where(here))
    connection.execute(insert(positions).values(vars(position)))
