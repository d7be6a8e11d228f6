"""Who calls, for which request, until when: set by the interceptor, read wherever rows are read.

Between services the caller travels as metadata that the gateway alone may set; the network keeps
others out, or mutual TLS.
"""

import re
import time
import uuid
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.context import Context

from services.chassis.errors import UnauthenticatedError

TENANT_KEY = "x-tw-tenant"
USER_KEY = "x-tw-user"
REQUEST_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Caller:
    """One user of one tenant. Both empty: a call by a service for itself."""

    tenant: str = ""
    user: str = ""

    @property
    def key(self) -> str:
        """Stable name of the user over all tenants."""
        return f"{self.tenant}/{self.user}"


@dataclass(frozen=True)
class CallContext:
    """What is known of the running call.

    `deadline` is on `time.monotonic()`'s clock, in seconds; None: no limit. `trace` holds the
    call's span for the next hop: it travels here and not as OpenTelemetry's attached context, which
    a stream that is closed from another task cannot detach.
    """

    caller: Caller
    request_id: str
    deadline: float | None = None
    trace: Context | None = None

    def remaining_seconds(self, policy_seconds: float) -> float:
        """The time that a call made now may take: the policy, or what is left of the caller's
        deadline.
        """
        if self.deadline is None:
            return policy_seconds
        return max(0.0, min(policy_seconds, self.deadline - time.monotonic()))


NOBODY = CallContext(Caller(), "")
_current: ContextVar[CallContext] = ContextVar("tw_call", default=NOBODY)
bind_call = _current.set
current_call = _current.get


def require_caller() -> Caller:
    """The user on whose behalf this call runs.

    Raises:
        UnauthenticatedError: the call carries no user.
    """
    caller = current_call().caller
    if not caller.tenant or not caller.user:
        raise UnauthenticatedError("the call carries no user")
    return caller


def request_id_from(given: str) -> str:
    """What the caller calls the request, for logs and traces; 32 hexadecimal digits of ours if it
    is not a plain name.
    """
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def caller_from(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[Caller, str]:
    """Caller and request id out of call metadata."""
    found = {key: value for key, value in metadata if isinstance(value, str)}
    caller = Caller(found.get(TENANT_KEY, ""), found.get(USER_KEY, ""))
    return caller, request_id_from(found.get(REQUEST_KEY, ""))


def outgoing_metadata() -> list[tuple[str, str]]:
    """The running call's caller and request id, for the next hop."""
    call = current_call()
    pairs = [(REQUEST_KEY, request_id_from(call.request_id))]
    if call.caller.user:
        pairs += [(TENANT_KEY, call.caller.tenant), (USER_KEY, call.caller.user)]
    return pairs
