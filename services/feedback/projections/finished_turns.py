"""What a batch of turns moves: who met which version, and words about answers that are taken back."""

from collections.abc import Sequence

from sqlalchemy import Connection

from services.feedback.events import TurnEvent
from services.feedback.projections import experiments, remarks
from services.feedback.sink.sink import Position
from services.feedback.spool.frames import Record


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, TurnEvent]]
) -> None:
    """Inside the ledger's transaction."""
    experiments.fold(connection, position, kept)
    remarks.delete_remarks(
        connection, {(event.principal, event.message_id) for _, event in kept if event.erased}
    )
