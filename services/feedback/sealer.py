"""Seals what was accepted, right before the spool: the texts go under the principal's key, the fingerprint under the master key."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from thumbwheel.feedback.v1 import events_pb2

from services.feedback.frames import Entry
from services.feedback.master_key import MasterKey
from services.feedback.sealing import MOST_BYTES_ADDED, NONCE_BYTES, DataKey, seal

MessageT = TypeVar("MessageT", events_pb2.FeedbackEvent, events_pb2.TurnEvent)


class Keys(Protocol):
    """Keys of principals."""

    def of(self, tenants: Mapping[str, str]) -> Mapping[str, DataKey]:
        """The key of each principal, given with its tenant; made where there is none. Raises: UnavailableError."""


@dataclass(frozen=True)
class Sealer(Generic[MessageT]):
    """Of one stream. `take_texts` moves the texts out of an event."""

    kind: type[MessageT]
    take_texts: Callable[[MessageT], MessageT]
    keys: Keys
    master: MasterKey
    random_bytes: Callable[[int], bytes] = os.urandom

    @property
    def most_bytes_added(self) -> int:
        """By how much an entry grows at most."""
        return MOST_BYTES_ADDED

    def fingerprint(self, digest: bytes) -> bytes:
        """A digest of a short text tells it to whoever guesses; under a key it tells nothing."""
        return self.master.fingerprint(digest)

    def seal(self, entries: Sequence[Entry]) -> list[Entry]:
        """All of one group, with one look at the keys: a key is never remembered, it may be shredded the next moment.

        Raises:
            UnavailableError: without their keys nothing is sealed.
        """
        events = [self.kind.FromString(entry.payload) for entry in entries]
        keys = self.keys.of({event.principal: event.tenant for event in events})
        return [
            replace(entry, payload=self._sealed(event, keys[event.principal]))
            for entry, event in zip(entries, events, strict=True)
        ]

    def _sealed(self, event: MessageT, key: DataKey) -> bytes:
        texts = self.take_texts(event).SerializeToString(deterministic=True)
        event.sealed = seal(texts, key, event.event_id, event.principal, self.random_bytes(NONCE_BYTES))
        return event.SerializeToString(deterministic=True)
