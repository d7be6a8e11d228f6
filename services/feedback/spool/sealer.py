"""Sealing of accepted events before the write to the spool.

Texts are encrypted under the principal's key, and fingerprints are keyed with the master key.
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
    """Data keys of principals."""

    def get_or_create(self, tenants: Mapping[str, str]) -> Mapping[str, DataKey]:
        """Return the key of each principal, and create missing keys.

        Args:
            tenants: Tenant of each principal.

        Raises:
            UnavailableError: The keys are unavailable.
        """


def none_overtaken(_events: Sequence[MessageT]) -> Collection[str]:
    """Return no ids, for events sent without delay."""
    return ()


@dataclass(frozen=True)
class Sealer(Generic[MessageT]):
    """Sealer of one stream.

    Args:
        extract_texts: Moves the texts out of an event.
        overtaken: Returns the ids of events from before their principal's last erasure.
    """

    event_type: type[MessageT]
    extract_texts: Callable[[MessageT], MessageT]
    keys: Keys
    master: MasterKey
    random_bytes: Callable[[int], bytes] = os.urandom
    overtaken: Callable[[Sequence[MessageT]], Collection[str]] = none_overtaken

    @property
    def max_overhead_bytes(self) -> int:
        """Maximum growth of an entry in bytes."""
        return MAX_SEAL_OVERHEAD_BYTES

    def fingerprint(self, digest: bytes) -> bytes:
        """Return the keyed fingerprint. A bare digest of a short text could be guessed."""
        # Equal contents give equal fingerprints in all replicas, since all share the master key.
        return self.master.fingerprint(digest)

    def seal(self, entries: Sequence[Entry]) -> list[Entry]:
        """Seal all entries of a group with one lookup of the keys.

        Keys are never cached, because an erasure may shred a key at any moment.

        Raises:
            UnavailableError: The keys are unavailable, and no entry is sealed.
        """
        events = [self.event_type.FromString(entry.payload) for entry in entries]
        keys = self.keys.get_or_create({event.principal: event.tenant for event in events})
        # Read the erasures after the keys: an erasure in between has shredded the returned keys.
        overtaken = self.overtaken(events)
        sealed: list[Entry] = []
        for entry, event in zip(entries, events, strict=True):
            # The texts leave the event in any case. Without texts and key id it becomes a
            # tombstone, like other events of an erased principal.
            texts = self.extract_texts(event).SerializeToString(deterministic=True)
            if event.event_id not in overtaken:
                # A fresh random nonce per event: reuse under one key would break AES-GCM.
                nonce = self.random_bytes(NONCE_BYTES)
                key = keys[event.principal]
                event.sealed = seal(texts, key, event.event_id, event.principal, nonce)
            sealed.append(replace(entry, payload=event.SerializeToString(deterministic=True)))
        return sealed


def overtaken_turns(
    last_erasures: Callable[[Collection[str]], Mapping[str, int]],
    turns: Sequence[events_pb2.TurnEvent],
) -> set[str]:
    """Return ids of turns finished before their principal's last erasure.

    The session service delivers turns with a delay. The comparison uses the clocks of the session
    service and of the ledger. Turns that retract an answer have no texts and are excluded.
    """
    erased_us = last_erasures({turn.principal for turn in turns})
    return {
        turn.event_id
        for turn in turns
        if not turn.erased
        and turn.finish_time.ToMicroseconds() <= erased_us.get(turn.principal, -1)
    }
