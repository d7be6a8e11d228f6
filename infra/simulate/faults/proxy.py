"""Base of the proxies for byte streams, and the decision whether a fault is injected.

The proxy listens on loopback and opens a connection to the server for each client.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from training.errors import ConfigError


class Chance:
    """Seeded selection of a share of occasions, at most `times` of them. Not thread-safe.

    The selection is always, the first few times, or a share. Equal seeds yield equal decisions.
    """

    def __init__(self, share: float = 1.0, times: int | None = None, seed: int = 0) -> None:
        if not 0.0 <= share <= 1.0:
            raise ConfigError(
                f"share: {share} is not between 0 and 1",
                field="share",
                reason="OUT_OF_RANGE",
                limit="0 to 1",
            )
        self._share, self._left, self._random = share, times, random.Random(seed)

    def strikes(self) -> bool:
        """Decide for the next occasion; call exactly once per occasion."""
        if self._left == 0 or self._random.random() >= self._share:
            return False
        if self._left is not None:
            self._left -= 1
        return True


HOST = "127.0.0.1"
MAX_CONNECTIONS = 1_000
CONNECT_SECONDS = 5.0
CALL_SECONDS = 10.0
T = TypeVar("T")


class CutError(Exception):
    """Injected fault: both ends of the connection are reset."""


@dataclass(frozen=True)
class End:
    """Client or server end of a proxied connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send data and wait while the peer does not read.

        The proxy buffers at most a chunk per direction.
        """
        self.writer.write(data)
        await self.writer.drain()


class LoopThread:
    """Event loop in a separate thread, so that a proxy works while the test thread blocks.

    `stop` cancels running tasks and waits for them.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread and wait for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(CALL_SECONDS)

    def stop(self) -> None:
        self.call(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_SECONDS)
        self._loop.close()


async def _cancel_all() -> None:
    # A connection that was accepted before its server closed begins its task during the first pass.
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class StreamProxy(ABC):
    """Proxy on `port` of 127.0.0.1, used as a context manager.

    `counts` contains the number of connections and of injected faults.
    """

    def __init__(self, target_port: int, port: int = 0) -> None:
        self._target_port, self.port = target_port, port
        self.counts = Counter[str]()
        self._thread = LoopThread(type(self).__name__)
        # The event loop has weak references only: a conversation between two sockets that are not
        # watched at the moment would be collected as garbage.
        self._conversations: set[asyncio.Task[None] | None] = set()

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
        """Forward bytes until both ends have closed.

        Raises:
            CutError: a fault resets the connection.
        """

    async def admitted(self) -> bool:
        """Return True if a new connection may reach the server; False resets the connection."""
        return True

    async def _close(self) -> None:
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends, whole = [End(reader, writer)], False
        self._conversations.add(asyncio.current_task())
        self.counts["connections"] += 1
        try:
            if len(self._conversations) > MAX_CONNECTIONS or not await self.admitted():
                raise CutError
            async with asyncio.timeout(CONNECT_SECONDS):
                ends.append(End(*await asyncio.open_connection(HOST, self._target_port)))
            await self.converse(*ends)
            whole = True
        except (
            CutError,
            OSError,
            EOFError,
        ):  # The server is unavailable or an end was reset: reset the other end.
            pass
        finally:
            self._conversations.discard(asyncio.current_task())
            for end in ends:
                end.writer.close() if whole else reset(end.writer.transport)


async def run_all(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines concurrently. The first error cancels the others and is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def reset(transport: asyncio.BaseTransport) -> None:
    """Close with RST instead of FIN, so that the peer sees an error.

    A closed transport stays unchanged.
    """
    if isinstance(transport, asyncio.Transport) and not transport.is_closing():
        with contextlib.suppress(OSError):
            sock = transport.get_extra_info("socket")
            # Linger with a time-out of 0 makes close() send RST.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
