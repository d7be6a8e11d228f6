"""A proxy before Postgres that breaks a connection at the one moment that matters: when a transaction commits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

COMMIT = b"COMMIT;"
LATE_SECONDS = 0.3


class Break(StrEnum):
    """What becomes of the commit; the client's connection breaks in each case."""

    NOT_SENT = "the commit never arrives"
    ANSWER_LOST = "the commit is done, its answer lost"
    LATE = "the commit arrives a while after the client has gone"


@dataclass
class CommitBreaker:
    """`planned` breaks come one a commit; `done` counts those that happened."""

    server_port: int
    planned: list[Break] = field(default_factory=list)
    done: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Yields the port to connect to."""
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        answers = asyncio.create_task(_pump(server_reader, writer))
        try:
            while data := await reader.read(1 << 16):
                if COMMIT in data and self.planned:
                    answers.cancel()
                    await asyncio.gather(answers, return_exceptions=True)
                    await self._break(self.planned.pop(0), data, writer, server_reader, server_writer)
                    return
                server_writer.write(data)
        except ConnectionError:
            pass
        finally:
            answers.cancel()
            writer.close()
            server_writer.close()

    async def _break(
        self,
        kind: Break,
        commit: bytes,
        client: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        self.done += 1
        if kind is not Break.ANSWER_LOST:
            client.transport.abort()
        if kind is Break.LATE:
            await asyncio.sleep(LATE_SECONDS)
        if kind is not Break.NOT_SENT:
            server.write(commit)
            await server_reader.read(1)
        client.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()
