"""Encryption of user text in Valkey (AES-256-GCM), with a separate key for each name.

A ciphertext moved to another name cannot be decrypted. All keys are derived from one secret of the
installation, common to its gateways.
"""

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class DecryptionError(Exception):
    """The data were not encrypted under this name with this secret."""


class Encryptor:
    """Encrypts the values of one name.

    Few values share a name, so random 96-bit nonces do not collide.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def encrypt(self, data: bytes) -> bytes:
        """Return nonce and ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, None)

    def decrypt(self, sealed: bytes) -> bytes:
        """Return the plaintext.

        Raises:
            DecryptionError: The data were changed, moved or encrypted with another secret.
        """
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as error:
            raise DecryptionError from error


class KeyDerivation:
    """Derives keys from the secret of the installation."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def encryptor(self, name: str) -> Encryptor:
        """Return the encryptor of a name."""
        return Encryptor(self._derive(b"box", name))

    def fingerprint(self, text: str) -> str:
        """Return a keyed hash as 64 hexadecimal digits. Guessing the text requires the secret."""
        return self._derive(b"fingerprint", text).hex()

    def _derive(self, purpose: bytes, text: str) -> bytes:
        return hmac.digest(self._secret, purpose + b"\0" + text.encode(), "sha256")
