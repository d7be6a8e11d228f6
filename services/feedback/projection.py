"""Tables that stand where the ledger does: each commit moves them in its own transaction; where they lag they are rebuilt.

A table made by a new release is behind on its first day, so it is filled from the committed objects then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, Table, delete, insert, select

from services.feedback import parquet
from services.feedback.gone import gone_rows
from services.feedback.ledger import Ledger, committed_segments
from services.feedback.object_store import ObjectStore
from services.feedback.sink import Position


@dataclass(frozen=True)
class Projection:
    """A table, how far it reaches into each log, and how rows of an object move it."""

    table: Table
    positions: Table
    move: Callable[[Connection, Sequence[parquet.Row]], None]


def catch_up(projection: Projection, ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild the table from the committed objects if it does not stand where the ledger does. True if it was rebuilt."""
    with ledger.between_commits(stream) as connection:
        segments = committed_segments(connection, stream)
        ends = {(segment.topic_id, segment.partition): segment.end_offset for segment in segments}
        table = projection.positions
        reached = connection.execute(select(table.c.topic_id, table.c.partition, table.c.end_offset))
        if {(row.topic_id, row.partition): row.end_offset for row in reached} == ends:
            return False
        gone = gone_rows(connection, stream)
        connection.execute(delete(projection.table))
        connection.execute(delete(table))
        for segment in segments:
            if segment.object_key:
                rows = parquet.read(store.get(segment.object_key))
                rows = rows.append_column("sequence", pa.array([segment.sequence] * rows.num_rows, pa.int64()))
                projection.move(connection, parquet.to_rows(rows.filter(pc.invert(gone.of(rows)))))
            stand(connection, table, Position(segment.topic_id, segment.partition, segment.end_offset))
    return True


def stand(connection: Connection, positions: Table, position: Position) -> None:
    """Write down how far the table reaches now."""
    here = (positions.c.topic_id == position.topic_id) & (positions.c.partition == position.partition)
    connection.execute(delete(positions).where(here))
    connection.execute(insert(positions).values(vars(position)))
