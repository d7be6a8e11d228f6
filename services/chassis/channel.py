"""Calls to other services: one long-lived channel a target, deadlines that shrink from hop to hop, errors translated once.

The options and why: a dead peer is noticed in about 10 s only with `grpc.http2.ping_timeout_ms`; without retry throttling a
failing backend gets its load times the number of attempts; a ClusterIP pins HTTP/2, hence round_robin over DNS.
"""

import json
from collections.abc import AsyncGenerator
from typing import Any, TypeVar, cast

import grpc

from services.chassis.errors import DeadlineExceededError, from_rpc
from services.chassis.identity import current_call, outgoing_metadata
from services.chassis.mutual_tls import TlsChannel, TlsFiles
from services.chassis.telemetry import trace_headers

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
CHANNEL_OPTIONS = [
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # A supervised peer is back within a second or two: the default back-off (up to 120 s) would outlast it.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
# What a hop keeps for itself to turn a late answer into an error of its own.
HOP_MARGIN_SECONDS = 0.05

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


def open_channel(target: str, *, peer: str = "", tls: TlsFiles | None = None) -> grpc.aio.Channel:
    """A channel to `host:port` or `dns:///name:port`; keep it for the life of the process. With TLS the peer must be that service."""
    if tls:
        return cast(grpc.aio.Channel, TlsChannel(target, peer, tls, CHANNEL_OPTIONS))
    return grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)


async def call_unary(peer: str, method: Any, request: RequestT, *, within_seconds: float) -> Any:
    """Call a unary method with the caller's identity, within the policy and within what is left of the deadline.

    Raises:
        ServiceError: the peer's error, or UnavailableError/DeadlineExceededError naming the peer.
    """
    timeout = _timeout(peer, within_seconds)
    try:
        return await method(request, timeout=timeout, metadata=_metadata())
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, peer) from error


async def call_stream(peer: str, method: Any, request: RequestT, *, within_seconds: float) -> AsyncGenerator[Any, None]:
    """Call a server-streaming method; closing the iterator cancels the call at the peer.

    Raises:
        ServiceError: as `call_unary`.
    """
    call = method(request, timeout=_timeout(peer, within_seconds), metadata=_metadata())
    try:
        async for response in call:
            yield response
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, peer) from error
    finally:
        call.cancel()


def _timeout(peer: str, within_seconds: float) -> float:
    timeout = current_call().remaining_seconds(within_seconds) - HOP_MARGIN_SECONDS
    if timeout <= 0:
        raise DeadlineExceededError(f"no time is left to ask the {peer} service")
    return timeout


def _metadata() -> list[tuple[str, str]]:
    return outgoing_metadata() + list(trace_headers().items())
