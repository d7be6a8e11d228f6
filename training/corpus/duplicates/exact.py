"""Digest of a text for exact duplicates."""

from __future__ import annotations

import hashlib
import unicodedata

DIGEST_BYTES = 16


def digest(text: str) -> bytes:
    """Return the digest of a text; equal digests mean exact duplicates.

    The text is normalised first: Unicode NFC, each run of white space as a single space, none at
    the ends. Case and punctuation count.
    """
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(normal.encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest()
