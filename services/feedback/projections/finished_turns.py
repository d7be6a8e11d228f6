"""Projections of a batch of turns: exposures, and removal of remarks on retracted answers."""

from collections.abc import Sequence

from sqlalchemy import Connection

from services.feedback.events import TurnEvent
from services.feedback.projections import experiments, remarks
from services.feedback.sink.sink import Position
from services.feedback.spool.log import Record


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, TurnEvent]]
) -> None:
    """Update both projections inside the ledger's transaction."""
    experiments.fold(connection, position, kept)
    remarks.delete_remarks(
        connection, {(event.principal, event.message_id) for _, event in kept if event.erased}
    )
