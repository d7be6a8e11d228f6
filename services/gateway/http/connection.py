"""Client connections: detection of disconnects, and server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

HEARTBEAT = b": still here\n\n"
# Proxies close connections after a minute of silence.
HEARTBEAT_SECONDS = 15.0

ResultT = TypeVar("ResultT")


class ClientGoneError(Exception):
    """The client disconnected before its answer began."""


async def while_connected(request: Request, work: Awaitable[ResultT]) -> ResultT:
    """Return the result of the work. A disconnect of the client cancels the work.

    The request body must have been read.

    Raises:
        ClientGoneError: The client disconnected first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """Stream of server-sent events. `events` is closed first, however the response ends."""

    def __init__(
        self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str] | None = None
    ) -> None:
        self._events = events
        super().__init__(
            _with_heartbeat(events),
            headers={"x-accel-buffering": "no", **(headers or {})},
            media_type="text/event-stream",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def _with_heartbeat(events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    while True:
        arriving = asyncio.ensure_future(anext(events))
        try:
            while not (await asyncio.wait({arriving}, timeout=HEARTBEAT_SECONDS))[0]:
                yield HEARTBEAT
            yield arriving.result()
        except StopAsyncIteration:
            return
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)
