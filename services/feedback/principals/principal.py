"""The pseudonym under which a user's feedback is kept. Gateway and session compute it by the same
formula.
"""

import hmac

from services.chassis.identity import Caller


def principal_of(key: str, caller: Caller) -> str:
    """HMAC-SHA-256 of `tenant/user` under the UTF-8 bytes of the key, 64 hexadecimal digits."""
    return hmac.digest(key.encode(), caller.key.encode(), "sha256").hex()
