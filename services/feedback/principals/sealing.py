"""Sealing of the texts of events, so that deleting one key erases all copies, backups included.

Layout of sealed bytes:

    version byte 1 | key id, 16 bytes | nonce, 12 bytes | AES-256-GCM of the texts | tag, 16 bytes

The texts are a protobuf message of the event's own type without other fields; merging the message
into the event restores the original. Texts of ranked answers are restored by position. The
associated data is `event_id/principal`, so bytes moved to another event do not decrypt.
Texts of a reviewer belong to two people: they are sealed under a key derived from both data keys,
with the associated data `event_id/principal/rater`, so that deleting either key erases the texts:

    version byte 2 | key id of the principal | key id of the rater | nonce | AES-256-GCM | tag

The master key is the only secret of this service: derived keys wrap data keys, compute fingerprints
and sign records. The database contains only wrapped keys; spool, topic and objects sealed texts.
"""

import hmac
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.errors import DetailedError
from services.feedback.spool.log import Entry

MessageT = TypeVar("MessageT", events_pb2.FeedbackEvent, events_pb2.TurnEvent)
VERSION, RATED_VERSION = b"\x01", b"\x02"
KEY_ID_BYTES, KEY_BYTES, NONCE_BYTES, TAG_BYTES = 16, 32, 12, 16
# First byte, and the position after the last byte.
KEY_ID_RANGE = (len(VERSION), len(VERSION) + KEY_ID_BYTES)
RATER_KEY_ID_RANGE = (KEY_ID_RANGE[1], KEY_ID_RANGE[1] + KEY_ID_BYTES)
MIN_SEALED_BYTES = len(VERSION) + KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES
# Sealed bytes, and protobuf overhead: tag and length of the field, and of the inner message.
MAX_SEAL_OVERHEAD_BYTES = MIN_SEALED_BYTES + KEY_ID_BYTES + 20


@dataclass(frozen=True)
class DataKey:
    """Key of one principal until its erasure; the next key has another id."""

    key_id: bytes
    key: bytes = field(repr=False)


def seal(texts: bytes, key: DataKey, event_id: str, principal: str, nonce: bytes) -> bytes:
    """Encrypt texts under a data key; a nonce must never repeat under the same key."""
    found = AESGCM(key.key).encrypt(nonce, texts, f"{event_id}/{principal}".encode())
    return VERSION + key.key_id + nonce + found


def seal_rated(
    texts: bytes,
    keys: tuple[DataKey, DataKey],
    event_id: str,
    people: tuple[str, str],
    nonce: bytes,
) -> bytes:
    """Encrypt texts of a reviewer under the data keys of the principal and the rater."""
    bound_to = "/".join((event_id, *people)).encode()
    key = _derived(b"".join(one.key for one in keys), None, _RATED)
    ids = b"".join(one.key_id for one in keys)
    return RATED_VERSION + ids + nonce + AESGCM(key).encrypt(nonce, texts, bound_to)


def unseal(sealed: bytes, key: DataKey, event_id: str, principal: str) -> bytes | None:
    """Return the texts, or None if another, shredded key sealed them."""
    if key_id_of(sealed) != key.key_id:
        return None
    nonce, found = sealed[KEY_ID_RANGE[1] :][:NONCE_BYTES], sealed[KEY_ID_RANGE[1] + NONCE_BYTES :]
    return AESGCM(key.key).decrypt(nonce, found, f"{event_id}/{principal}".encode())


def is_sealed(sealed: bytes) -> bool:
    """Return True if the bytes have the form of sealed bytes."""
    if sealed.startswith(RATED_VERSION):
        return len(sealed) >= MIN_SEALED_BYTES + KEY_ID_BYTES
    return sealed.startswith(VERSION) and len(sealed) >= MIN_SEALED_BYTES


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the principal's key; empty for plain events of the first version."""
    return sealed[slice(*KEY_ID_RANGE)]


def key_ids_of(sealed: bytes) -> tuple[bytes, ...]:
    """Return the key ids of the principal and, if there is one, of the rater; none if plain."""
    if not sealed:
        return ()
    principal = key_id_of(sealed)
    if sealed.startswith(RATED_VERSION):
        return principal, sealed[slice(*RATER_KEY_ID_RANGE)]
    return (principal,)


# Salt of fingerprint keys, separate from wrapping keys, which have only the tenant as info.
_FINGERPRINTS = b"thumbwheel.feedback.fingerprints"
_RECORDS = b"thumbwheel.feedback.records"
_RATED = b"thumbwheel.feedback.rated"


class MasterKeyError(DetailedError):
    """Wrapped key is damaged or was wrapped under another master key."""

    reason = "MISMATCH"


class MasterKey:
    """Master key of 64 hexadecimal digits, and further master keys accepted during a rotation.

    Data keys are wrapped with AES-256-GCM under a key derived per tenant, bound to the principal.

    Args:
        digits: wraps data keys.
        accepted: further master keys, under which data keys may be wrapped.
        fingerprint_key: key of the fingerprints; by default derived from `digits`.
    """

    def __init__(
        self,
        digits: str,
        random_bytes: Callable[[int], bytes] = os.urandom,
        accepted: Sequence[str] = (),
        fingerprint_key: bytes | None = None,
    ) -> None:
        self._secret, self._random_bytes = bytes.fromhex(digits), random_bytes
        self._accepted = [bytes.fromhex(other) for other in accepted]
        self.fingerprint_key = fingerprint_key or _derived(self._secret, _FINGERPRINTS, b"")

    def wrap(self, key: bytes, tenant: str, principal: str) -> bytes:
        """Wrap a data key; the result is nonce, ciphertext and tag."""
        nonce = self._random_bytes(NONCE_BYTES)
        return nonce + _wrapping(self._secret, tenant).encrypt(nonce, key, principal.encode())

    def unwrap(self, wrapped: bytes, tenant: str, principal: str) -> bytes:
        """Unwrap a data key.

        Raises:
            MasterKeyError: The key is damaged or was wrapped under a master key that is not
                accepted.
        """
        for secret in (self._secret, *self._accepted):
            try:
                return _wrapping(secret, tenant).decrypt(
                    wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], principal.encode()
                )
            except InvalidTag:
                continue
        raise MasterKeyError("a data key does not open under this master key", field="master_key")

    @property
    def is_rotating(self) -> bool:
        """True if further master keys are accepted."""
        return bool(self._accepted)

    def without_accepted(self) -> "MasterKey":
        """Return this master key without the other accepted ones."""
        return MasterKey(self._secret.hex(), self._random_bytes)

    def with_fingerprints(self, key: bytes) -> "MasterKey":
        """Return the same master keys with another key of the fingerprints."""
        accepted = [secret.hex() for secret in self._accepted]
        return MasterKey(self._secret.hex(), self._random_bytes, accepted, key)

    def fingerprint(self, digest: bytes) -> bytes:
        """Return HMAC-SHA-256 of an event's SHA-256.

        The bare digest of a short text could be guessed.
        """
        return hmac.digest(self.fingerprint_key, digest, "sha256")

    def record_key(self) -> bytes:
        """Return the key of the signatures of records in topics.

        Derived from the key of the fingerprints, so that a rotation of the master key does not
        invalidate records on their way to the sink.
        """
        return _derived(self.fingerprint_key, _RECORDS, b"")


def _wrapping(secret: bytes, tenant: str) -> AESGCM:
    return AESGCM(_derived(secret, None, tenant.encode()))


def _derived(secret: bytes, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(secret)


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
        tenants = {event.principal: event.tenant for event in events}
        tenants |= {rater: event.tenant for event in events if (rater := _rater(event))}
        keys = self.keys.get_or_create(tenants)
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
                key, event_id = keys[event.principal], event.event_id
                if rater := _rater(event):
                    people = event.principal, rater
                    event.sealed = seal_rated(texts, (key, keys[rater]), event_id, people, nonce)
                else:
                    event.sealed = seal(texts, key, event_id, event.principal, nonce)
            sealed.append(replace(entry, payload=event.SerializeToString(deterministic=True)))
        return sealed


def _rater(event: events_pb2.FeedbackEvent | events_pb2.TurnEvent) -> str:
    return event.rater if isinstance(event, events_pb2.FeedbackEvent) else ""


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
