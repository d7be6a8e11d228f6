"""Pseudonym for a user's feedback. The session and feedback services use the same formula."""

import hmac

from services.chassis.identity import Caller


def principal_of(key: str, caller: Caller) -> str:
    """Return HMAC-SHA-256 of `tenant/user` under the key in UTF-8, as 64 hexadecimal digits."""
    return hmac.digest(key.encode(), caller.key.encode(), "sha256").hex()
