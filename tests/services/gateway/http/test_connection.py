"""Client connections: a stream that ends early is closed before anything else happens."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.requests import Request

from services.gateway.http import connection
from services.gateway.http.connection import (
    HEARTBEAT,
    ClientGoneError,
    EventStream,
    while_connected,
)

SCOPE: Any = {"type": "http", "asgi": {"spec_version": "2.3"}, "headers": []}


class Client:
    """Client that receives messages and disconnects on request."""

    def __init__(self) -> None:
        self.body = b""
        self.leaves, self.got_some = asyncio.Event(), asyncio.Event()

    async def receive(self) -> Any:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message.get("body"):
            self.body += message["body"]
            self.got_some.set()


async def test_events_are_closed_when_the_client_disconnects() -> None:
    closed, never, client = asyncio.Event(), asyncio.Event(), Client()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: 1\n\n"
            await never.wait()
        finally:
            closed.set()

    response = EventStream(events())
    running = asyncio.create_task(response(SCOPE, client.receive, client.send))
    await client.got_some.wait()
    client.leaves.set()
    await running
    assert closed.is_set()
    assert client.body == b"data: 1\n\n"


async def test_events_are_closed_when_the_client_never_reads() -> None:
    closed, client = asyncio.Event(), Client()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield b"data: 1\n\n"
        finally:
            closed.set()

    async def never_taken(message: Any) -> None:
        if message.get("body"):
            client.leaves.set()
            await asyncio.Event().wait()

    response = EventStream(events())
    await response(SCOPE, client.receive, never_taken)
    assert closed.is_set()


async def test_silent_stream_gets_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT_SECONDS", 0.01)
    client, go = Client(), asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        await go.wait()
        yield b"data: 1\n\n"

    running = asyncio.create_task(EventStream(events())(SCOPE, client.receive, client.send))
    await client.got_some.wait()
    go.set()
    await running
    assert client.body.startswith(HEARTBEAT)
    assert client.body.endswith(b"data: 1\n\n")


async def test_work_is_cancelled_on_disconnect_and_returned_otherwise() -> None:
    client, cancelled = Client(), asyncio.Event()
    request = Request(SCOPE, client.receive)

    async def quick() -> int:
        return 42

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    assert await while_connected(request, quick()) == 42
    client.leaves.set()
    with pytest.raises(ClientGoneError):
        await while_connected(request, slow())
    assert cancelled.is_set()
