"""Current feedback of users: thumbs, comments and corrections, updated together.

A batch of turns updates exposures and answers, and removes remarks and signals on retracted
answers.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection

from services.feedback.events import FeedbackEvent, TurnEvent, Words
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.projections import answers, experiments, remarks, signals, thumbs
from services.feedback.projections.remarks import Remarks
from services.feedback.projections.thumbs import Thumbs
from services.feedback.sink import Position
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
    """Update thumbs, remarks and signals from one batch, inside the ledger's transaction."""
    thumbs.fold(connection, position, kept)
    remarks.fold(connection, position, kept)
    signals.fold(connection, position, kept)


def catch_up(ledger: Ledger, store: ObjectStore, stream: str) -> None:
    """Rebuild thumbs, remarks and signals if they are behind the ledger."""
    thumbs.catch_up(ledger, store, stream)
    remarks.catch_up(ledger, store, stream)
    signals.catch_up(ledger, store, stream)


def fold_turns(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, TurnEvent]]
) -> None:
    """Update exposures and answers, and delete remarks and signals on retracted answers.

    The updates are part of the ledger's transaction.
    """
    experiments.fold(connection, position, kept)
    answers.fold(connection, position, kept)
    retracted = {(event.principal, event.message_id) for _, event in kept if event.erased}
    remarks.delete_remarks(connection, retracted)
    signals.delete_signals(connection, retracted)


KeyT = TypeVar("KeyT", bound=tuple[str, ...])
ValueT = TypeVar("ValueT")


class Overlay(Generic[KeyT, ValueT]):
    """Pending values by key; the first part of a key is the principal.

    Args:
        change_of: Returns key and value of an event, or None for events without effect.
    """

    def __init__(
        self, change_of: Callable[[FeedbackEvent, int], tuple[KeyT, ValueT] | None]
    ) -> None:
        self._change_of = change_of
        self._pending: OrderedDict[KeyT, tuple[int, ValueT]] = OrderedDict()

    def add(self, stored: Iterable[tuple[Record, FeedbackEvent]]) -> None:
        """Add stored records with their events, in order."""
        for record, event in stored:
            if change := self._change_of(event, record.entry.accept_order):
                key, value = change
                self._pending.pop(key, None)
                self._pending[key] = (record.offset, value)

    def forget(self, principal: str) -> None:
        """Drop the values of an erased principal.

        Values from after the erasure may be dropped as well; the table contains them soon.
        """
        for key in [key for key in self._pending if key[0] == principal]:
            del self._pending[key]

    def trim(self, before: int) -> None:
        """Drop the values below an offset, since the table contains them."""
        while self._pending and next(iter(self._pending.values()))[0] < before:
            self._pending.popitem(last=False)

    async def latest(self, keys: Collection[KeyT] | None) -> Mapping[KeyT, ValueT]:
        """Return the pending values of some keys, or of all keys with None."""
        wanted = self._pending if keys is None else [key for key in keys if key in self._pending]
        return {key: self._pending[key][1] for key in wanted}


class PendingFeedback:
    """Overlays of thumbs and remarks, filled with acknowledged feedback (single replica).

    Args:
        decode: Yields stored records with their events.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[Record]], Iterable[tuple[Record, FeedbackEvent]]],
    ) -> None:
        self.thumbs, self.remarks = Overlay(thumbs.change_of), Overlay(remarks.change_of)
        self._decode = decode

    def add(self, records: Sequence[Record]) -> None:
        """Add stored records in order."""
        decoded = list(self._decode(records))
        self.thumbs.add(decoded)
        self.remarks.add(decoded)

    def trim(self, before: int) -> None:
        """Drop the values below an offset, since the tables contain them."""
        self.thumbs.trim(before)
        self.remarks.trim(before)

    def forget(self, principal: str) -> None:
        """Drop the values of an erased principal."""
        self.thumbs.forget(principal)
        self.remarks.forget(principal)
