"""uvicorn inside the service's event loop, without its own signal handlers and logging."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from services.gateway.http.header_timeout import HeaderTimeoutProtocol


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
        http=HeaderTimeoutProtocol,
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
