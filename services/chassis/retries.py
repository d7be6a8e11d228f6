"""Retries: the delay of loops, the policy of a gRPC channel, and the pushback of a server.

A proto marks idempotent methods, the client's channel retries calls of these methods, and the
server forbids a retry that would do harm. A retry policy sees status codes only. Presence of an
idempotency key, earlier attempts and remaining time are known to the server alone, which answers
with a pushback: milliseconds until the next attempt, or -1 for no retry. grpc.aio clients obey the
pushback.
"""

import json
import math
import random
from collections.abc import Iterable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from services.chassis.errors import ServiceError

PUSHBACK_KEY = "grpc-retry-pushback-ms"
ATTEMPTS_KEY = "grpc-previous-rpc-attempts"
NO_RETRY = "-1"
# Three attempts would multiply the load of a failing peer by three; with the throttle the factor is
# 1.06 (50 calls → 53, measured).
RETRY_POLICY = {
    "maxAttempts": 3,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
BALANCING = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
THROTTLE = {"maxTokens": 10, "tokenRatio": 0.1}
# Least remaining time for a retry, as a multiple of its delay: the attempt gets as much time as the
# delay before it.
MIN_REMAINING_DELAYS = 2


def retry_delay(
    failures: int, first_seconds: float, longest_seconds: float, left_seconds: float = math.inf
) -> float:
    """Return the delay before the next attempt: exponential with full jitter.

    Drawn between 0 and a bound that doubles with each failure, so that callers that failed together
    do not return together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015).

    Args:
        failures: failed attempts in a row, at least 1.
        first_seconds: bound after the first failure.
        longest_seconds: highest bound.
        left_seconds: rest of the time for all attempts; the next attempt gets at least half of it.
    """
    bound = math.ldexp(first_seconds, min(failures - 1, 64))
    return random.uniform(0, min(bound, longest_seconds, left_seconds / MIN_REMAINING_DELAYS))


def service_config(protos: Iterable[FileDescriptor]) -> str:
    """Return the gRPC service config of a channel as JSON.

    The config balances round robin over addresses with health SERVING, and retries calls of the
    methods that `protos` mark as idempotent.
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
        if is_idempotent(method)
    ]
    policies = [{"name": names, "retryPolicy": RETRY_POLICY}] if names else []
    return json.dumps({**BALANCING, "methodConfig": policies, "retryThrottling": THROTTLE})


def is_idempotent(method: MethodDescriptor) -> bool:
    """Return True if the proto marks the method as idempotent (`option idempotency_level`)."""
    return bool(method.GetOptions().idempotency_level)


def pushback(
    error: ServiceError, path: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]
) -> str | None:
    """Return the pushback of a failed call; None leaves the decision to the client's backoff.

    An error of a peer was already retried one hop further and is not retried. A call that is not
    idempotent is not retried. An overloaded server allows one retry after `error.retry_seconds`, if
    the deadline leaves enough time.
    """
    if error.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
        return None
    if error.from_peer or not is_retryable(path, request):
        return NO_RETRY
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return None
    wait = error.retry_seconds
    is_retry = ATTEMPTS_KEY in dict(context.invocation_metadata() or ())
    if not wait or is_retry or (context.time_remaining() or 0) < MIN_REMAINING_DELAYS * wait:
        return NO_RETRY
    return str(int(wait * 1000))


def is_retryable(path: str, request: Any) -> bool:
    """Return True if the call may be sent twice. `request` is None before the receipt.

    A request type with a `request_id` field requires a value in the field; otherwise the method
    must be idempotent.
    """
    if request is None:
        return True
    method = descriptor_pool.Default().FindMethodByName(path.strip("/").replace("/", "."))
    if "request_id" in method.input_type.fields_by_name:
        return bool(request.request_id)
    return is_idempotent(method)
