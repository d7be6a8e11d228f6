"""Calls to other services: one long-lived channel per target, deadlines, translated errors.

A deadline shrinks from hop to hop. A ClusterIP pins an HTTP/2 connection to one replica, hence
round_robin over the addresses of a name. Retries are described in `retries`.
"""

from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.descriptor import FileDescriptor

from services.chassis.errors import DeadlineExceededError, from_rpc
from services.chassis.identity import current_call, outgoing_metadata
from services.chassis.mutual_tls import TlsFiles, secure_channel
from services.chassis.reconnecting_channel import ReconnectingChannel, ResolvedAddresses
from services.chassis.retries import service_config
from services.chassis.telemetry import trace_headers

# Used at both ends. A stopped or disconnected peer is detected within 7 s, measured with SIGSTOP
# (docs/decisions): the ping timeout has an effect, the keepalive timeout has none. Without the
# third option a quiet connection sends two pings and no more.
KEEPALIVE_OPTIONS = [
    ("grpc.keepalive_time_ms", 4_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
]
CHANNEL_OPTIONS = [
    *KEEPALIVE_OPTIONS,
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.dns_min_time_between_resolutions_ms", 5_000),
    # A supervised peer is back within two seconds; the default backoff lasts up to 120 s.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # Also the connect timeout: the default of 20 s would delay the next attempt after a cut.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]
# Part of the deadline that a hop reserves to report a late peer as its own error.
HOP_MARGIN_SECONDS = 0.05

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


def open_channel(
    target: str, *protos: FileDescriptor, peer: str = "", tls: TlsFiles | None = None
) -> grpc.aio.Channel:
    """Open a channel to a service, to be used for the life of the process.

    Args:
        target: `host:port`, `dns:///name:port` or `ipv4:host:port,host:port`.
        protos: files of the called methods; methods with an `idempotency_level` are retried.
        peer: name of the called service; with TLS the certificate must name this service.
        tls: certificate files; None opens a channel without TLS.
    """
    options = [("grpc.service_config", service_config(protos)), *CHANNEL_OPTIONS]

    def connect() -> grpc.aio.Channel:
        if tls:
            return secure_channel(target, peer, tls, options)
        return grpc.aio.insecure_channel(target, options=options)

    sources: list[Callable[[], object]] = [tls.pem_files] if tls else []
    if target.startswith("dns:"):
        sources.append(ResolvedAddresses(target))
    return cast(grpc.aio.Channel, ReconnectingChannel(connect, sources)) if sources else connect()


async def call_unary(peer: str, method: Any, request: RequestT, *, within_seconds: float) -> Any:
    """Call a unary method with the identity and the trace of the running call.

    The timeout is `within_seconds` or the rest of the running call's deadline, whichever is less.

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
    """Call a server-streaming method; closing the iterator cancels the call.

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
        raise DeadlineExceededError(f"no time is left to call the {peer} service")
    return timeout


def _metadata() -> list[tuple[str, str]]:
    return outgoing_metadata() + list(trace_headers().items())
