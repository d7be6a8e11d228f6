"""Current feedback of users: thumbs, comments and corrections, updated together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from services.feedback.events import FeedbackEvent, Words
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.projections import remarks, thumbs
from services.feedback.projections.remarks import Remarks
from services.feedback.projections.thumbs import Thumbs
from services.feedback.sink.sink import Position
from services.feedback.spool.log import Record


@dataclass(frozen=True)
class CurrentFeedback:
    """Current thumbs and remarks of all users."""

    thumbs: Thumbs
    remarks: Remarks

    async def of_principal(
        self, principal: str, message_ids: Sequence[str]
    ) -> tuple[dict[str, bool], Mapping[str, Words]]:
        """Return message id → up, and message id → texts.

        Texts of a thumb are returned only with that same thumb.

        Raises:
            UnavailableError: The database is unavailable, or the master key differs.
        """
        current_thumbs = await self.thumbs.current(principal, message_ids)
        accepted_us = {message_id: state.accept_us for message_id, state in current_thumbs.items()}
        words = await self.remarks.get(principal, message_ids, accepted_us)
        return {message_id: bool(state.up) for message_id, state in current_thumbs.items()}, words


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, FeedbackEvent]]
) -> None:
    """Update both tables from one batch, inside the ledger's transaction."""
    thumbs.fold(connection, position, kept)
    remarks.fold(connection, position, kept)


def catch_up(ledger: Ledger, store: ObjectStore, stream: str) -> None:
    """Rebuild thumbs and remarks if they are behind the ledger."""
    thumbs.catch_up(ledger, store, stream)
    remarks.catch_up(ledger, store, stream)
