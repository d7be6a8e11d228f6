"""Overlay of acknowledged feedback that the tables do not contain yet (single replica).

The records wait in the only spool, in the order of the log. The overlay is used only on the event
loop.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic, TypeVar

from services.feedback.events import FeedbackEvent
from services.feedback.spool.log import Record

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
