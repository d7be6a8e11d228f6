"""Seals what was accepted, right before the spool: the texts go under the principal's key, the
fingerprint under the master key.
"""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from thumbwheel.feedback.v1 import events_pb2

from services.feedback.principals.master_key import MasterKey
from services.feedback.principals.sealing import MAX_SEAL_OVERHEAD_BYTES, NONCE_BYTES, DataKey, seal
from services.feedback.spool.frames import Entry

MessageT = TypeVar("MessageT", events_pb2.FeedbackEvent, events_pb2.TurnEvent)


class Keys(Protocol):
    """Keys of principals."""

    def get_or_create(self, tenants: Mapping[str, str]) -> Mapping[str, DataKey]:
        """The key of each principal, given with its tenant; made where there is none. Raises:
        UnavailableError.
        """


def none_overtaken(_events: Sequence[MessageT]) -> Collection[str]:
    """For events that come as they are said."""
    return ()


@dataclass(frozen=True)
class Sealer(Generic[MessageT]):
    """Of one stream. `take_texts` moves the texts out of an event; `late` tells the ids of those
    that an erasure has overtaken.
    """

    event_type: type[MessageT]
    extract_texts: Callable[[MessageT], MessageT]
    keys: Keys
    master: MasterKey
    random_bytes: Callable[[int], bytes] = os.urandom
    overtaken: Callable[[Sequence[MessageT]], Collection[str]] = none_overtaken

    @property
    def max_overhead_bytes(self) -> int:
        """By how much an entry grows at most."""
        return MAX_SEAL_OVERHEAD_BYTES

    def fingerprint(self, digest: bytes) -> bytes:
        """A digest of a short text tells it to whoever guesses; under a key it tells nothing."""
        return self.master.fingerprint(digest)

    def seal(self, entries: Sequence[Entry]) -> list[Entry]:
        """All of one group, with one look at the keys: a key is never remembered, it may be
        shredded the next moment.

        Raises:
            UnavailableError: without their keys nothing is sealed.
        """
        events = [self.event_type.FromString(entry.payload) for entry in entries]
        keys = self.keys.get_or_create({event.principal: event.tenant for event in events})
        # After the keys: an erasure between the two has shredded those that were given.
        overtaken = self.overtaken(events)
        return [
            replace(
                entry,
                payload=self._seal_event(
                    event, None if event.event_id in overtaken else keys[event.principal]
                ),
            )
            for entry, event in zip(entries, events, strict=True)
        ]

    def _seal_event(self, event: MessageT, key: DataKey | None) -> bytes:
        """Without a key the texts are dropped, and the event becomes a tombstone like all of an
        erased principal that names no key.
        """
        texts = self.extract_texts(event).SerializeToString(deterministic=True)
        if key:
            event.sealed = seal(
                texts, key, event.event_id, event.principal, self.random_bytes(NONCE_BYTES)
            )
        return event.SerializeToString(deterministic=True)


def overtaken_turns(
    last_erasures: Callable[[Collection[str]], Mapping[str, int]],
    turns: Sequence[events_pb2.TurnEvent],
) -> set[str]:
    """Ids of turns that were finished before their principal's last erasure and come only now:
    session sends them a while later.

    By session's clock and the ledger's. What takes a turn back has no texts, and stays.
    """
    erased_us = last_erasures({turn.principal for turn in turns})
    return {
        turn.event_id
        for turn in turns
        if not turn.erased
        and turn.finish_time.ToMicroseconds() <= erased_us.get(turn.principal, -1)
    }
