"""How the texts of an event are sealed, so that whoever deletes one key makes them unreadable
everywhere, backups included.

    byte 1 | key id, 16 bytes | nonce, 12 bytes | AES-256-GCM of the texts | tag, 16 bytes

The texts are a protobuf message of the event's own type that holds nothing else; merged into the
event it gives what was said. The associated data is `event_id/principal`: bytes that were moved to
another event do not open.
"""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = b"\x01"
KEY_ID_BYTES, KEY_BYTES, NONCE_BYTES, TAG_BYTES = 16, 32, 12, 16
# First byte, and one past the last.
KEY_ID_RANGE = (len(VERSION), len(VERSION) + KEY_ID_BYTES)
MIN_SEALED_BYTES = len(VERSION) + KEY_ID_BYTES + NONCE_BYTES + TAG_BYTES
# The above, and what protobuf adds: the field's tag and length, and those of the message inside.
MAX_SEAL_OVERHEAD_BYTES = MIN_SEALED_BYTES + 20


@dataclass(frozen=True)
class DataKey:
    """The key of one principal, until it is erased; the next one has another id."""

    key_id: bytes
    key: bytes = field(repr=False)


def seal(texts: bytes, key: DataKey, event_id: str, principal: str, nonce: bytes) -> bytes:
    """Under one key a nonce is used once."""
    found = AESGCM(key.key).encrypt(nonce, texts, f"{event_id}/{principal}".encode())
    return VERSION + key.key_id + nonce + found


def unseal(sealed: bytes, key: DataKey, event_id: str, principal: str) -> bytes | None:
    """The texts; None where another key sealed them: that one was shredded."""
    if key_id_of(sealed) != key.key_id:
        return None
    nonce, found = sealed[KEY_ID_RANGE[1] :][:NONCE_BYTES], sealed[KEY_ID_RANGE[1] + NONCE_BYTES :]
    return AESGCM(key.key).decrypt(nonce, found, f"{event_id}/{principal}".encode())


def is_sealed(sealed: bytes) -> bool:
    """Whether bytes can be what `seal` made."""
    return sealed.startswith(VERSION) and len(sealed) >= MIN_SEALED_BYTES


def key_id_of(sealed: bytes) -> bytes:
    """Which key opens it; of nothing, nothing: an event of the first version, whose texts are
    plain.
    """
    return sealed[slice(*KEY_ID_RANGE)]
