"""Identity and deadline of the running call, set by the interceptor and read by domain code.

Between services the caller travels as metadata. Only the gateway may set the metadata; signed calls
(`service_identity`) exclude other clients.
"""

import re
import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

from opentelemetry.context import Context

from services.chassis.errors import UnauthenticatedError

TENANT_KEY = "x-tw-tenant"
USER_KEY = "x-tw-user"
REQUEST_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Caller:
    """One user of one tenant; both are empty for a call that a service makes for itself.

    `key_user` is set in the gateway only, for an end user of a shared key: the user of the key.
    """

    tenant: str = ""
    user: str = ""
    key_user: str = field(default="", compare=False)

    @property
    def key(self) -> str:
        """Stable name of the user, unique across tenants."""
        return f"{self.tenant}/{self.user}"

    @property
    def holder(self) -> "Caller":
        """User of the key with which the caller was authenticated."""
        return Caller(self.tenant, self.key_user) if self.key_user else self


@dataclass(frozen=True)
class CallContext:
    """Caller, request id, deadline, trace and signing service of the running call.

    `deadline` is in seconds of `time.monotonic()`; None means no limit. `trace` holds the call's
    span for the next hop. OpenTelemetry's attached context is not used, because a stream that is
    closed by another task cannot detach that context.
    """

    caller: Caller
    request_id: str
    deadline: float | None = None
    trace: Context | None = None
    signer: str = ""  # service that signed the call; empty without signatures

    def remaining_seconds(self, policy_seconds: float) -> float:
        """Return the lesser of `policy_seconds` and the rest of the deadline, at least 0."""
        if self.deadline is None:
            return policy_seconds
        return max(0.0, min(policy_seconds, self.deadline - time.monotonic()))


NO_CALL = CallContext(Caller(), "")
_current: ContextVar[CallContext] = ContextVar("tw_call", default=NO_CALL)
bind_call = _current.set
current_call = _current.get


def require_caller() -> Caller:
    """Return the user on whose behalf the running call is made.

    Raises:
        UnauthenticatedError: the call carries no user.
    """
    caller = current_call().caller
    if not caller.tenant or not caller.user:
        raise UnauthenticatedError("the call carries no user")
    return caller


def request_id_from(given: str) -> str:
    """Return the caller's request id for logs and traces.

    Anything but 1 to 64 characters of A-Z, a-z, 0-9, `.`, `_` and `-` is replaced by a new id of
    32 hexadecimal digits.
    """
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def caller_from(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[Caller, str]:
    """Read the caller and the request id from the metadata of a call."""
    found = {key: value for key, value in metadata if isinstance(value, str)}
    caller = Caller(found.get(TENANT_KEY, ""), found.get(USER_KEY, ""))
    return caller, request_id_from(found.get(REQUEST_KEY, ""))


def outgoing_metadata() -> list[tuple[str, str]]:
    """Return caller and request id of the running call as metadata for the next hop."""
    call = current_call()
    pairs = [(REQUEST_KEY, request_id_from(call.request_id))]
    if call.caller.user:
        pairs += [(TENANT_KEY, call.caller.tenant), (USER_KEY, call.caller.user)]
    return pairs
