"""The one secret of this service, from which the keys come that wrap data keys and that fingerprint
events.

Whoever has the database has wrapped keys only; whoever has the spool, the topic and the objects has
sealed texts only.
"""

import hmac
import os
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from services.chassis.errors import DetailedError
from services.feedback.principals.sealing import KEY_BYTES, NONCE_BYTES

# Apart from what wraps, whose info is a tenant's name.
_FINGERPRINTS = b"thumbwheel.feedback.fingerprints"


class MasterKeyError(DetailedError):
    """A wrapped key does not open: it was wrapped under another master key, or is damaged."""

    reason = "MISMATCH"


class MasterKey:
    """Made of 64 hexadecimal digits. Wraps by AES-256-GCM under a key of the tenant, bound to the
    principal.
    """

    def __init__(self, digits: str, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._secret, self._random_bytes = bytes.fromhex(digits), random_bytes
        self._fingerprints = _derived(self._secret, _FINGERPRINTS, b"")

    def wrap(self, key: bytes, tenant: str, principal: str) -> bytes:
        """Nonce, ciphertext, tag."""
        nonce = self._random_bytes(NONCE_BYTES)
        return nonce + self._wrapping(tenant).encrypt(nonce, key, principal.encode())

    def unwrap(self, wrapped: bytes, tenant: str, principal: str) -> bytes:
        """Raises: MasterKeyError."""
        try:
            return self._wrapping(tenant).decrypt(
                wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], principal.encode()
            )
        except InvalidTag as error:
            raise MasterKeyError(
                "a data key does not open under this master key", field="master_key"
            ) from error

    def fingerprint(self, digest: bytes) -> bytes:
        """HMAC-SHA-256 of an event's SHA-256, which by itself would tell a short text to whoever
        guesses.
        """
        return hmac.digest(self._fingerprints, digest, "sha256")

    def _wrapping(self, tenant: str) -> AESGCM:
        return AESGCM(_derived(self._secret, None, tenant.encode()))


def _derived(secret: bytes, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(secret)
