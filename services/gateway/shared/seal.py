"""What users said lies in Valkey only sealed (AES-256-GCM), under a key of its own for every name:
a text that is moved cannot be read.

The names' keys come from one secret that all gateways of an installation have.
"""

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12


class SealBrokenError(Exception):
    """Not sealed under this name with this secret."""


class Box:
    """Seals what lies under one name. Few things share a name, so that random nonces never meet."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, data: bytes) -> bytes:
        """Unreadable for others."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, None)

    def open(self, sealed: bytes) -> bytes:
        """Raises: SealBrokenError."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], None)
        except (InvalidTag, ValueError) as error:
            raise SealBrokenError from error


class Seal:
    """Makes boxes."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def box(self, name: str) -> Box:
        """The box of a name."""
        return Box(self._derive(b"box", name))

    def fingerprint(self, text: str) -> str:
        """A name for a text from which nobody can tell the text, not even by trying; 64 hexadecimal
        digits.
        """
        return self._derive(b"fingerprint", text).hex()

    def _derive(self, purpose: bytes, text: str) -> bytes:
        return hmac.digest(self._secret, purpose + b"\0" + text.encode(), "sha256")
