"""Master key, the only secret of this service.

Derived keys wrap data keys and compute fingerprints. The database alone contains only wrapped keys;
spool, topic and objects alone contain only sealed texts.
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

# Salt of fingerprint keys, separate from wrapping keys, which have only the tenant as info.
_FINGERPRINTS = b"thumbwheel.feedback.fingerprints"


class MasterKeyError(DetailedError):
    """Wrapped key is damaged or was wrapped under another master key."""

    reason = "MISMATCH"


class MasterKey:
    """Master key of 64 hexadecimal digits.

    Data keys are wrapped with AES-256-GCM under a key derived per tenant, bound to the principal.
    """

    def __init__(self, digits: str, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._secret, self._random_bytes = bytes.fromhex(digits), random_bytes
        self._fingerprints = _derived(self._secret, _FINGERPRINTS, b"")

    def wrap(self, key: bytes, tenant: str, principal: str) -> bytes:
        """Wrap a data key; the result is nonce, ciphertext and tag."""
        nonce = self._random_bytes(NONCE_BYTES)
        return nonce + self._wrapping(tenant).encrypt(nonce, key, principal.encode())

    def unwrap(self, wrapped: bytes, tenant: str, principal: str) -> bytes:
        """Unwrap a data key.

        Raises:
            MasterKeyError: The key is damaged or was wrapped under another master key.
        """
        try:
            return self._wrapping(tenant).decrypt(
                wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], principal.encode()
            )
        except InvalidTag as error:
            raise MasterKeyError(
                "a data key does not open under this master key", field="master_key"
            ) from error

    def fingerprint(self, digest: bytes) -> bytes:
        """Return HMAC-SHA-256 of an event's SHA-256.

        The bare digest of a short text could be guessed.
        """
        return hmac.digest(self._fingerprints, digest, "sha256")

    def _wrapping(self, tenant: str) -> AESGCM:
        return AESGCM(_derived(self._secret, None, tenant.encode()))


def _derived(secret: bytes, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(secret)
