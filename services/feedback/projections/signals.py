"""Signals that clients have reported on answers, for the rates of a version.

A signal counts once for each user, answer and kind. The table changes in the transaction that
commits a segment of feedback. Signals on answers of deleted conversations are removed; one that is
committed at the same moment stays, and has no effect without its answer.
"""

from collections.abc import Collection, Iterable, Sequence

from sqlalchemy import Connection, delete, insert, select

from services.contracts.feedback import Signal
from services.feedback.events import FeedbackEvent
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.removed_rows import retracted_answers
from services.feedback.projections.projection import Projection, advance_position, key_in
from services.feedback.projections.projection import catch_up as rebuild
from services.feedback.sink import Position
from services.feedback.spool.log import Record
from services.feedback.store import tables
from services.feedback.store.database import chunks

KEY_COLUMNS = ("principal", "message_id", "kind")
Key = tuple[str, str, str]
"""Principal, message id and kind of a signal."""


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, FeedbackEvent]]
) -> None:
    """Update the table from one batch, inside the ledger's transaction."""
    _apply(
        connection,
        [
            ((event.principal, event.message_id, event.value.kind), event.accept_us)
            for _, event in kept
            if isinstance(event.value, Signal)
        ],
    )
    advance_position(connection, tables.signal_positions, position)


def catch_up(ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild an outdated table and return True after a rebuild."""

    def apply_rows(connection: Connection, rows: Sequence[parquet.Row]) -> None:
        _apply(
            connection,
            [
                (
                    (str(row["principal"]), str(row["message_id"]), str(row["signal"])),
                    int(str(row["accept_time"])),
                )
                for row in rows
                if row["kind"] == "signal"
            ],
        )

    return rebuild(
        Projection(tables.signals, tables.signal_positions, apply_rows), ledger, store, stream
    )


def delete_signals(connection: Connection, about: Collection[tuple[str, str]]) -> None:
    """Delete the signals of principals on retracted answers."""
    for chunk in chunks(about):
        connection.execute(
            delete(tables.signals).where(key_in(tables.signals, KEY_COLUMNS[:2], chunk))
        )


def _apply(connection: Connection, found: Iterable[tuple[Key, int]]) -> None:
    """Store the first time of each signal."""
    first: dict[Key, int] = {}
    for key, accept_us in found:
        first[key] = min(accept_us, first.get(key, accept_us))
    retracted = retracted_answers(connection, {message_id for _, message_id, _ in first})
    first = {key: accept_us for key, accept_us in first.items() if key[1] not in retracted}
    table = tables.signals
    for chunk in chunks(first.keys()):
        condition = key_in(table, KEY_COLUMNS, chunk)
        for row in connection.execute(select(table).where(condition)):
            key = (row.principal, row.message_id, row.kind)
            first[key] = min(first[key], row.accept_us)
        connection.execute(delete(table).where(condition))
        rows = [dict(zip(KEY_COLUMNS, key, strict=True)) for key in chunk]
        connection.execute(
            insert(table),
            [row | {"accept_us": first[key]} for key, row in zip(chunk, rows, strict=True)],
        )
