"""uvicorn inside the service's event loop, without its own signal handlers and logging.

The time and the size of a request head are limited, and the number of connections without an
authenticated request. uvicorn has none of these limits.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.identity.credential import ANONYMOUS, Credential

HEAD_SECONDS = 10.0
# Twice the limit of gRPC metadata, since browsers send more headers.
MAX_HEAD_BYTES = 32 * 1024
# Connections without an authenticated request: before the first head, between two requests, and
# during public requests. Half of the usual limit of 1,024 open files of a process.
MAX_UNAUTHENTICATED_CONNECTIONS = 500
# Connections are dropped after this time, so that the first request of a new one has arrived.
DROP_SECONDS = 1.0


class UnauthenticatedConnections:
    """Connections without an authenticated request, oldest first.

    Beyond the limit the oldest connection is dropped, in favour of new connections.
    """

    def __init__(self) -> None:
        self._connections: dict[HeaderTimeoutProtocol, None] = {}
        self._drop_timer: asyncio.TimerHandle | None = None

    def add(self, connection: "HeaderTimeoutProtocol") -> None:
        """Add a connection as the newest. Beyond the limit the oldest will be dropped."""
        self.discard(connection)
        self._connections[connection] = None
        if len(self._connections) > MAX_UNAUTHENTICATED_CONNECTIONS and self._drop_timer is None:
            self._drop_timer = connection.loop.call_later(DROP_SECONDS, self._drop_oldest)

    def _drop_oldest(self) -> None:
        self._drop_timer = None
        while len(self._connections) > MAX_UNAUTHENTICATED_CONNECTIONS:
            oldest = next(iter(self._connections))
            self.discard(oldest)
            # An authenticated connection is added again when its request has been answered.
            if not oldest.is_authenticated:
                oldest.transport.abort()

    def discard(self, connection: "HeaderTimeoutProtocol") -> None:
        """Remove a connection, for example after its end."""
        self._connections.pop(connection, None)


class HeaderTimeoutProtocol(HttpToolsProtocol):
    """Drops connections with a slow or oversized request head.

    The first head is due from the start of the connection.
    """

    _due: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def __init__(
        self, unauthenticated: UnauthenticatedConnections, *arguments: Any, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self._unauthenticated = unauthenticated

    @property
    def is_authenticated(self) -> bool:
        """Return True while a request of an authenticated caller is answered."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        credential: Credential = self.cycle.scope["state"].get("credential", ANONYMOUS)
        return credential != ANONYMOUS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        self._unauthenticated.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._unauthenticated.discard(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self._unauthenticated.add(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._due:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        if self._due is None:
            self._due, self._head_bytes = (
                self.loop.call_later(HEAD_SECONDS, self.transport.abort),
                0,
            )

    def _stop_waiting(self) -> None:
        if self._due:
            self._due.cancel()
            self._due = None


class EmbeddedServer(uvicorn.Server):
    """uvicorn server stopped by the chassis instead of signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving_http(
    app: ASGIApp, host: str, port: int, write_seconds: float
) -> AsyncIterator[int]:
    """Serve HTTP during the block. Yields the port.

    A reader that accepts no data for `write_seconds` is disconnected.
    """
    listener = socket.create_server((host, port), backlog=2048)
    # asyncio does not set the option on a given socket, unlike uvloop. Without it every answer
    # waits 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        # Inherited by every connection. The kernel also counts a closed window, while uvicorn would
        # wait without limit.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_seconds * 1000))
    config = uvicorn.Config(
        app,
        http=partial(HeaderTimeoutProtocol, UnauthenticatedConnections()),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Streams end with their turns, which are closed earlier.
        timeout_graceful_shutdown=1,
    )
    server = EmbeddedServer(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await running
        listener.close()
