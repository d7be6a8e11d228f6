"""What people said last that no table has yet: it waits in the only spool there is, in the order of the log. Lives on the event loop."""

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Generic, TypeVar

from services.feedback.events import FeedbackEvent
from services.feedback.sink.sink import UndecodableError
from services.feedback.spool.frames import Record

KeyT = TypeVar("KeyT", bound=tuple[str, ...])
SaidT = TypeVar("SaidT")


class Overlay(Generic[KeyT, SaidT]):
    """By key, whose first part is the principal. `change_of` tells what an event says, and of what; None: nothing of interest."""

    def __init__(
        self,
        decode: Callable[[Record], FeedbackEvent],
        change_of: Callable[[FeedbackEvent, int], tuple[KeyT, SaidT] | None],
    ) -> None:
        self._decode, self._change_of = decode, change_of
        self._waiting: OrderedDict[KeyT, tuple[int, SaidT]] = OrderedDict()

    def take(self, records: Iterable[Record]) -> None:
        """Records as they were stored, in order; what cannot be decoded will be a dead letter and counts for nothing."""
        for record in records:
            with contextlib.suppress(UndecodableError):
                if change := self._change_of(self._decode(record), record.entry.accept_order):
                    key, said = change
                    self._waiting.pop(key, None)
                    self._waiting[key] = (record.offset, said)

    def forget(self, principal: str) -> None:
        """Drop what an erased principal said. What they say from now on may go with it: the table has it soon."""
        for key in [key for key in self._waiting if key[0] == principal]:
            del self._waiting[key]

    def trim(self, before: int) -> None:
        """Drop what the table has by now."""
        while self._waiting and next(iter(self._waiting.values()))[0] < before:
            self._waiting.popitem(last=False)

    async def opinions(self, keys: Collection[KeyT] | None) -> Mapping[KeyT, SaidT]:
        """As of now; of some keys, or of all."""
        wanted = self._waiting if keys is None else [key for key in keys if key in self._waiting]
        return {key: self._waiting[key][1] for key in wanted}
