"""What people said last that no table has yet: it waits in the only spool there is, in the order of
the log. Lives on the event loop.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic, TypeVar

from services.feedback.events import FeedbackEvent
from services.feedback.spool.frames import Record

KeyT = TypeVar("KeyT", bound=tuple[str, ...])
ValueT = TypeVar("ValueT")


class Overlay(Generic[KeyT, ValueT]):
    """By key, whose first part is the principal. `change_of` tells what an event says, and of what;
    None: nothing of interest.
    """

    def __init__(
        self, change_of: Callable[[FeedbackEvent, int], tuple[KeyT, ValueT] | None]
    ) -> None:
        self._change_of = change_of
        self._pending: OrderedDict[KeyT, tuple[int, ValueT]] = OrderedDict()

    def add(self, stored: Iterable[tuple[Record, FeedbackEvent]]) -> None:
        """Records and what they say, as they were stored, in order."""
        for record, event in stored:
            if change := self._change_of(event, record.entry.accept_order):
                key, value = change
                self._pending.pop(key, None)
                self._pending[key] = (record.offset, value)

    def forget(self, principal: str) -> None:
        """Drop what an erased principal said. What they say from now on may go with it: the table
        has it soon.
        """
        for key in [key for key in self._pending if key[0] == principal]:
            del self._pending[key]

    def trim(self, before: int) -> None:
        """Drop what the table has by now."""
        while self._pending and next(iter(self._pending.values()))[0] < before:
            self._pending.popitem(last=False)

    async def latest(self, keys: Collection[KeyT] | None) -> Mapping[KeyT, ValueT]:
        """As of now; of some keys, or of all."""
        wanted = self._pending if keys is None else [key for key in keys if key in self._pending]
        return {key: self._pending[key][1] for key in wanted}
