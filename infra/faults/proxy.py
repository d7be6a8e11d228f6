"""What proxies of byte streams share: a listener on loopback, one connection to the server for each
to the proxy, resets.
"""

import asyncio
import contextlib
import socket
import struct
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self

from infra.faults.loop_thread import LoopThread

HOST = "127.0.0.1"
MAX_CONNECTIONS = 1_000
CONNECT_SECONDS = 5.0


class CutError(Exception):
    """A fault struck: both ends of this connection are reset."""


@dataclass(frozen=True)
class End:
    """One end of a proxied connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Wait while the peer does not read: a proxy holds no more than a chunk a direction."""
        self.writer.write(data)
        await self.writer.drain()


class StreamProxy(ABC):
    """`with` it, then let the client connect to `port` of 127.0.0.1. `counts` says how often what
    happened.
    """

    def __init__(self, target_port: int, port: int = 0) -> None:
        self._target_port, self.port = target_port, port
        self.counts = Counter[str]()
        self._thread = LoopThread(type(self).__name__)
        self._connections = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._thread.call(asyncio.start_server(self._accept, HOST, self.port))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.call(self._close())
        self._thread.stop()

    @abstractmethod
    async def converse(self, client: End, server: End) -> None:
        """Pass bytes until both ends have said all. Raises: CutError."""

    async def admitted(self) -> bool:
        """Whether a new connection may go on to the server; False resets it."""
        return True

    async def _close(self) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends, whole = [End(reader, writer)], False
        self._connections += 1
        self.counts["connections"] += 1
        try:
            if self._connections > MAX_CONNECTIONS or not await self.admitted():
                raise CutError
            async with asyncio.timeout(CONNECT_SECONDS):
                ends.append(End(*await asyncio.open_connection(HOST, self._target_port)))
            await self.converse(*ends)
            whole = True
        except (
            CutError,
            OSError,
            EOFError,
        ):  # the server is away, or one end was cut: so is the other
            pass
        finally:
            self._connections -= 1
            for end in ends:
                end.writer.close() if whole else reset(end.writer.transport)


async def together(*ways: Coroutine[Any, Any, None]) -> None:
    """Run all to their end; the first error ends them all, and is raised."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reset(transport: asyncio.BaseTransport) -> None:
    """Close with RST in place of FIN, so that the peer sees an error and not an end; what is closed
    already stays so.
    """
    if isinstance(transport, asyncio.Transport) and not transport.is_closing():
        with contextlib.suppress(OSError):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
