"""Which calls are sent again, and who decides: a proto marks its methods, the caller's channel
retries the marked ones, the server says no where it would hurt.

A retry policy knows status codes alone. What else there is to know (does the request carry a key,
was it tried before, is there time) only the server can say, by push-back: milliseconds until the
next try, or -1 for none. grpc.aio clients heed it.
"""

import json
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from services.chassis.errors import ServiceError

PUSH_BACK_KEY = "grpc-retry-pushback-ms"
ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
NEVER = "-1"
# Three attempts multiply the load of a failing peer by three; the throttle keeps it at 1.06 (50
# calls → 53, measured).
RETRIES = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
BALANCING = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
THROTTLE = {"maxTokens": 10, "tokenRatio": 0.1}
# A second try gets at least as much time as it waited for.
MIN_WAITS_LEFT = 2


def service_config(protos: Iterable[FileDescriptor]) -> str:
    """round_robin over the addresses that say SERVING, and retries for the methods that these
    protos mark.
    """
    methods = [
        method
        for proto in protos
        for service in proto.services_by_name.values()
        for method in service.methods
    ]
    names = [
        {"service": method.containing_service.full_name, "method": method.name}
        for method in methods
        if marked(method)
    ]
    policies = [{"name": names, "retryPolicy": RETRIES}] if names else []
    return json.dumps({**BALANCING, "methodConfig": policies, "retryThrottling": THROTTLE})


def marked(method: MethodDescriptor) -> bool:
    """The proto says that a call of the method may be sent twice (`option idempotency_level`)."""
    return bool(method.GetOptions().idempotency_level)


def push_back(
    error: ServiceError, path: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]
) -> str | None:
    """What the server tells the caller's retries about a failed call; None leaves it to the
    caller's own back-off.

    A peer's failure that is passed on was retried where it happened; a call that may not be sent
    twice is not sent twice; a full server is asked once more, a while later, if the deadline
    allows.
    """
    if error.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return None
    if error.passed_on or not repeatable(path, request):
        return NEVER
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return None
    wait = error.retry_seconds
    again = ATTEMPTS_KEY in dict(context.invocation_metadata() or ())
    if not wait or again or (context.time_remaining() or 0) < MIN_WAITS_LEFT * wait:
        return NEVER
    return str(int(wait * 1000))


def repeatable(path: str, request: Any) -> bool:
    """Whether this call may be sent twice: by its key where the request can carry one, else by its
    method's mark.
    """
    method = descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))
    if "request_id" in method.input_type.fields_by_name:
        return bool(request.request_id)
    return marked(method)
