"""A proxy that can swallow everything from one moment on, as a partition does: nobody is told, nothing is closed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Blackhole:
    """Between a client and `target_port`. `swallowed` counts the bytes that went nowhere: the proof that it was there."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.swallowed = 0
        self.connections = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def part(self) -> None:
        """From now on nothing gets through, new connections neither."""
        self._open.clear()

    def heal(self) -> None:
        """New connections get through again; what was swallowed is lost, so the old ones are as good as dead."""
        self._open.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Blackhole"]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pipe(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        lost = False
        try:
            while data := await source.read(65_536):
                lost = lost or not self._open.is_set()
                if lost:
                    self.swallowed += len(data)
                else:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()
