"""Pseudonym of a user in stored feedback and turn records.

Thumbs and turns are joined by the principal, so all services use this formula and the same key.
"""

import hmac

from services.chassis.identity import Caller


def principal_of(key: str, caller: Caller) -> str:
    """Return HMAC-SHA-256 of `tenant/user` under the key's UTF-8 bytes, as 64 hex digits."""
    return hmac.digest(key.encode(), caller.key.encode(), "sha256").hex()
