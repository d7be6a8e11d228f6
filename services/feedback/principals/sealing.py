"""Sealing of an event's texts, so that deleting one key erases all copies, backups included.

Layout of sealed bytes:

    version byte 1 | key id, 16 bytes | nonce, 12 bytes | AES-256-GCM of the texts | tag, 16 bytes

The texts are a protobuf message of the event's own type without other fields; merging the message
into the event restores the original. The associated data is `event_id/principal`, so bytes moved to
another event do not decrypt.
"""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = b"\x01"
KEY_ID_BYTES, KEY_BYTES, NONCE_BYTES, TAG_BYTES = 16, 32, 12, 16
# First byte, and the position after the last byte.
KEY_ID_RANGE = (len(VERSION), len(VERSION) + KEY_ID_BYTES)
MIN_SEALED_BYTES = len(VERSION) + KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES
# Sealed bytes, and protobuf overhead: tag and length of the field, and of the inner message.
MAX_SEAL_OVERHEAD_BYTES = MIN_SEALED_BYTES + 20


@dataclass(frozen=True)
class DataKey:
    """Key of one principal until its erasure; the next key has another id."""

    key_id: bytes
    key: bytes = field(repr=False)


def seal(texts: bytes, key: DataKey, event_id: str, principal: str, nonce: bytes) -> bytes:
    """Encrypt texts under a data key; a nonce must never repeat under the same key."""
    found = AESGCM(key.key).encrypt(nonce, texts, f"{event_id}/{principal}".encode())
    return VERSION + key.key_id + nonce + found


def unseal(sealed: bytes, key: DataKey, event_id: str, principal: str) -> bytes | None:
    """Return the texts, or None if another, shredded key sealed them."""
    if key_id_of(sealed) != key.key_id:
        return None
    nonce, found = sealed[KEY_ID_RANGE[1] :][:NONCE_BYTES], sealed[KEY_ID_RANGE[1] + NONCE_BYTES :]
    return AESGCM(key.key).decrypt(nonce, found, f"{event_id}/{principal}".encode())


def is_sealed(sealed: bytes) -> bool:
    """Return True if the bytes have the form of sealed bytes."""
    return sealed.startswith(VERSION) and len(sealed) >= MIN_SEALED_BYTES


def key_id_of(sealed: bytes) -> bytes:
    """Return the id of the sealing key; empty for plain events of the first version."""
    return sealed[slice(*KEY_ID_RANGE)]
