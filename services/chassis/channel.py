"""Calls to other services: one long-lived channel per target, deadlines, translated errors.

A deadline shrinks from hop to hop. A ClusterIP pins an HTTP/2 connection to one replica, hence
round_robin over the addresses of a name. Retries are described in `retries`.

gRPC's own channels keep their certificates, and resolve a name again only after a connection is
lost. Calls have failed by then. `ReconnectingChannel` is replaced while calls run, when
certificates or addresses change, and learns of a new replica before the old replica stops.
"""

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from services.chassis.errors import DeadlineExceededError, from_rpc
from services.chassis.identity import current_call, outgoing_metadata
from services.chassis.mutual_tls import TlsFiles, secure_channel
from services.chassis.retries import service_config
from services.chassis.service_identity import SigningChannel, TokenSigner
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
CHECK_INTERVAL_SECONDS = 1.0
CONNECT_SECONDS = 10.0
# Grace period of a replaced channel: its streams may end by themselves, up to the longest call.
CLOSE_GRACE_SECONDS = 900.0

ResponseT = TypeVar("ResponseT")
UnaryMethod = Callable[..., Awaitable[ResponseT]]


def open_channel(
    target: str,
    *protos: FileDescriptor,
    peer: str = "",
    tls: TlsFiles | None = None,
    signer: TokenSigner | None = None,
) -> grpc.aio.Channel:
    """Open a channel to a service, to be used for the life of the process.

    Args:
        target: `host:port`, `dns:///name:port` or `ipv4:host:port,host:port`.
        protos: files of the called methods; methods with an `idempotency_level` are retried.
        peer: name of the called service; with TLS the certificate must name this service.
        tls: certificate files; None opens a channel without TLS.
        signer: signer of the calls; None sends calls without a token.
    """
    options = [("grpc.service_config", service_config(protos)), *CHANNEL_OPTIONS]

    def connect() -> grpc.aio.Channel:
        if tls:
            return secure_channel(target, peer, tls, options)
        return grpc.aio.insecure_channel(target, options=options)

    sources: list[Callable[[], object]] = [tls.pem_files] if tls else []
    if target.startswith("dns:"):
        sources.append(ResolvedAddresses(target))
    channel: Any = ReconnectingChannel(connect, sources) if sources else connect()
    return cast(grpc.aio.Channel, SigningChannel(channel, signer) if signer else channel)


async def call_unary(
    peer: str, method: UnaryMethod[ResponseT], request: Message, *, within_seconds: float
) -> ResponseT:
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
    peer: str, method: Any, request: Message, *, within_seconds: float
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


class ReconnectingChannel:
    """Channel for stubs that connects again when one of its sources returns another value.

    The sources are compared every CHECK_INTERVAL_SECONDS from the first call on, also while no call
    runs: otherwise the first call after a quiet minute would fail. After a change a new channel is
    opened and used once connected; the working channel stays in use until then.
    """

    def __init__(
        self, connect: Callable[[], grpc.aio.Channel], sources: Sequence[Callable[[], object]]
    ) -> None:
        self._connect, self._sources = connect, sources
        self._values = self._read_sources()
        self._channel = self._connect()
        self._watcher: asyncio.Task[None] | None = None
        self._closing: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "ReconnectingChannel":
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = [*self._closing.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in (*self._closing, self._channel)))

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """Create a unary call as `grpc.aio.Channel.unary_unary`."""
        return self._method(lambda channel: channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """Create a streaming call as `grpc.aio.Channel.unary_stream`."""
        return self._method(lambda channel: channel.unary_stream(*arguments, **named))

    def _method(self, bind: Callable[[grpc.aio.Channel], Any]) -> Any:
        channel, bound = self._channel, bind(self._channel)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal channel, bound
            # The watcher ends with the error of a failed connect; the next call starts another.
            if self._watcher is None or self._watcher.done():
                self._watcher = asyncio.create_task(self._watch())
            if channel is not self._channel:
                channel, bound = self._channel, bind(self._channel)
            return bound(*arguments, **named)

        return call

    def _read_sources(self) -> Sequence[object]:
        return [read() for read in self._sources]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)
            if (values := self._read_sources()) != self._values:
                await self._replace(values)

    async def _replace(self, values: Sequence[object]) -> None:
        replacement = self._connect()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await replacement.channel_ready()
        except BaseException as error:
            await replacement.close()
            if not isinstance(error, TimeoutError):
                raise
        else:
            old, self._channel, self._values = self._channel, replacement, values
            self._closing[old] = asyncio.create_task(old.close(CLOSE_GRACE_SECONDS))
            self._closing[old].add_done_callback(lambda _: self._closing.pop(old))


class ResolvedAddresses:
    """Latest known addresses of the name in `dns:///name:port`, resolved in the background.

    A call never waits: a due lookup starts, and the previous result is returned. The first lookup
    is delayed by CHECK_INTERVAL_SECONDS, because name servers cache for seconds that a peer does
    not exist yet while a whole release starts.
    """

    def __init__(self, target: str) -> None:
        self._name = target.rpartition("/")[2].rpartition(":")[0]
        self._addresses: frozenset[str] = frozenset()
        self._next_lookup = time.monotonic() + CHECK_INTERVAL_SECONDS
        self._lookup: asyncio.Task[None] | None = None

    def __call__(self) -> frozenset[str]:
        """Return the addresses of the last successful lookup; empty before the first."""
        if time.monotonic() >= self._next_lookup:
            self._next_lookup = time.monotonic() + CHECK_INTERVAL_SECONDS
            self._lookup = asyncio.create_task(self._resolve())
        return self._addresses

    async def _resolve(self) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self._name, None, type=socket.SOCK_STREAM
            )
        except OSError:
            return  # An unavailable name server is no evidence about the replicas.
        self._addresses = frozenset(str(address[0]) for *_, address in found)
