"""Proxy in front of Postgres that breaks connections at the commit of a transaction."""

import asyncio
from collections import deque
from enum import StrEnum

from infra.simulate.faults.proxy import CutError, End, StreamProxy, reset, run_all

CHUNK_BYTES = 64 * 1024
# Text of the simple query that asyncpg sends in a separate packet.
COMMIT = b"COMMIT;"
LATE_COMMIT_SECONDS = 0.3


class CommitFault(StrEnum):
    """Fault at a commit. The connection of the client is always reset."""

    NOT_SENT = "not sent"  # The server never receives the commit.
    ANSWER_LOST = "answer lost"  # The server executes the commit.
    # The server receives the commit after the client has disconnected, and holds the locks until
    # then.
    LATE = "late"


class CommitProxy(StreamProxy):
    """Proxy that injects the `planned` faults in order, one per commit.

    `counts` contains the injected faults.
    """

    def __init__(self, target_port: int, port: int = 0) -> None:
        super().__init__(target_port, port)
        self.planned: deque[CommitFault] = deque()

    async def converse(self, client: End, server: End) -> None:
        lost = asyncio.Event()
        await run_all(self._pass_up(client, server, lost), self._pass_down(client, server, lost))

    async def _pass_up(self, client: End, server: End, lost: asyncio.Event) -> None:
        while chunk := await client.reader.read(CHUNK_BYTES):
            if COMMIT in chunk and self.planned:
                lost.set()
                kind = self.planned.popleft()
                self.counts[kind] += 1
                if kind is CommitFault.NOT_SENT:
                    raise CutError
                if kind is CommitFault.LATE:
                    reset(client.writer.transport)
                    await asyncio.sleep(LATE_COMMIT_SECONDS)
            await server.send(chunk)
        server.writer.write_eof()

    async def _pass_down(self, client: End, server: End, lost: asyncio.Event) -> None:
        while chunk := await server.reader.read(CHUNK_BYTES):
            if lost.is_set():
                raise CutError
            await client.send(chunk)
        client.writer.write_eof()
