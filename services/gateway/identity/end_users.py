"""End users behind one shared key.

A call with a key of the scope `end_users` may name the end user for whom it is made. The end user
then is a caller of its own: with own quotas, conversations, consent and assignment to versions.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Any

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.contracts.limits import field_error
from services.gateway.identity.credential import Credential, Scope

# Metadata of a gRPC call, or header of an HTTP request.
END_USER_KEY = "x-end-user"
# Parameters of OpenAI; `user` is the older name.
BODY_FIELDS = ("safety_identifier", "user")
END_USER = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?")
END_USER_LIMIT = "1 to 128 printable ASCII characters, without a space at either end"
# With 160 bits two names of a key have the same user practically never.
HASH_CHARACTERS = 40


class EndUsers:
    """Derives the callers of end users; names are neither stored nor passed on."""

    def __init__(self, principal_key: str) -> None:
        self._principal_key = principal_key

    def named_in_metadata(self, credential: Credential, values: Sequence[str | bytes]) -> Caller:
        """Return the caller of a call with these values of END_USER_KEY.

        Raises:
            InvalidArgumentError: A shared key, and several values or an invalid one.
        """
        if Scope.END_USERS not in credential.scopes or not values:
            return credential.caller
        if len(values) > 1:
            raise field_error(END_USER_KEY, "one value")
        return self._end_user(credential, END_USER_KEY, values[0])

    def named_in_body(self, credential: Credential, body: Mapping[str, Any]) -> Caller:
        """Return the caller of a request whose body may name the end user in BODY_FIELDS.

        Args:
            credential: As authenticated; its caller may be the end user named in a header.
            body: Body of the request. Null is like absent.

        Raises:
            InvalidArgumentError: A shared key, and an invalid name or two different ones.
        """
        caller = credential.caller
        if Scope.END_USERS not in credential.scopes:
            return caller
        for field in BODY_FIELDS:
            if (value := body.get(field)) is None:
                continue
            named = self._end_user(credential, field, value)
            if caller.key_user and caller != named:
                raise field_error(
                    field, f"the same in {', '.join(BODY_FIELDS)} and the header {END_USER_KEY}"
                )
            caller = named
        return caller

    def _end_user(self, credential: Credential, field: str, value: Any) -> Caller:
        if not isinstance(value, str) or not END_USER.fullmatch(value):
            raise field_error(field, END_USER_LIMIT)
        holder = credential.caller.holder
        text = f"end user {principal_of(self._principal_key, holder)} {value}"
        digest = hmac.new(self._principal_key.encode(), text.encode(), hashlib.sha256).hexdigest()
        return Caller(holder.tenant, f"end-{digest[:HASH_CHARACTERS]}", holder.user)
