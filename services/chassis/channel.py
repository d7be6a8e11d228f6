"""Calls to other services: one long-lived channel a target, deadlines that shrink from hop to hop,
errors translated once.

A ClusterIP pins HTTP/2, hence round_robin over the addresses of a name. What is sent again:
`retries`.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.descriptor import FileDescriptor

from services.chassis.errors import DeadlineExceededError, from_rpc
from services.chassis.fresh_channel import Addresses, FreshChannel
from services.chassis.identity import current_call, outgoing_metadata
from services.chassis.mutual_tls import TlsFiles, secure_channel
from services.chassis.retries import service_config
from services.chassis.telemetry import trace_headers

# Of both ends: a peer that is stopped or cut off is noticed within 7 s. Measured with a SIGSTOP
# (docs/decisions): the keepalive timeout alone does nothing, the ping's does; and without the third
# line no ping follows the second on a quiet connection.
KEEPALIVE_OPTIONS = [
    ("grpc.keepalive_time_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
]
CHANNEL_OPTIONS = [
    *KEEPALIVE_OPTIONS,
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # A supervised peer is back within a second or two: the default back-off (up to 120 s) would
    # outlast it.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # How long connecting may take; 20 s would hold a second try up behind a cut.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
# What a hop keeps for itself to turn a late answer into an error of its own.
HOP_MARGIN_SECONDS = 0.05

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


def open_channel(
    target: str, *protos: FileDescriptor, peer: str = "", tls: TlsFiles | None = None
) -> grpc.aio.Channel:
    """A channel to `host:port`, `dns:///name:port` or `ipv4:host:port,host:port`; keep it for the
    life of the process.

    Calls of methods that `protos` mark as repeatable are retried. With TLS the peer must be that
    service.
    """
    options = [("grpc.service_config", service_config(protos)), *CHANNEL_OPTIONS]

    def open_anew() -> grpc.aio.Channel:
        if tls:
            return secure_channel(target, peer, tls, options)
        return grpc.aio.insecure_channel(target, options=options)

    watched: list[Callable[[], object]] = [tls.pems] if tls else []
    if target.startswith("dns:"):
        watched.append(Addresses(target))
    return cast(grpc.aio.Channel, FreshChannel(open_anew, watched)) if watched else open_anew()


async def call_unary(peer: str, method: Any, request: RequestT, *, within_seconds: float) -> Any:
    """Call a unary method with the caller's identity, within the policy and within what is left of
    the deadline.

    Raises:
        ServiceError: the peer's error, or UnavailableError/DeadlineExceededError naming the peer.
    """
    timeout = _timeout(peer, within_seconds)
    try:
        return await method(request, timeout=timeout, metadata=_metadata())
    except grpc.aio.AioRpcError as error:
        raise from_rpc(error, peer) from error


async def call_stream(
    peer: str, method: Any, request: RequestT, *, within_seconds: float
) -> AsyncGenerator[Any, None]:
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
