"""uvicorn in the service's own loop: it neither takes the signals nor the logs."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from services.gateway.http.impatience import ImpatientProtocol


class EmbeddedServer(uvicorn.Server):
    """The chassis decides when to stop."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving_http(
    app: ASGIApp, host: str, port: int, write_seconds: float
) -> AsyncIterator[int]:
    """Serve until the block ends. Yields the port. A reader who takes nothing for `write_seconds`
    is cut off.
    """
    listener = socket.create_server((host, port), backlog=2048)
    # uvloop does it by itself, asyncio's loop does not for such a socket: then every answer waits
    # 40 ms for an ACK.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        # Handed on to every connection. The kernel counts a closed window too; uvicorn would wait
        # for ever.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(write_seconds * 1000))
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Streams end with their turns, which are closed before.
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
