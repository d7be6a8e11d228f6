"""Limits of connections without an authenticated request, and of incomplete bodies."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.chassis.calls import request_reader
from services.gateway.http import app, server
from tests.services.gateway.calls import GeneratorGate
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway

LIMIT = 5
PUBLIC = b"GET /health HTTP/1.1\r\nHost: loopback\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nx-slow: ", PUBLIC])
async def test_oldest_connections_of_strangers_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Silent connections occupied all files, so that no connection was accepted any more."""
    monkeypatch.setattr(server, "MAX_UNAUTHENTICATED_CONNECTIONS", LIMIT)
    monkeypatch.setattr(server, "DROP_SECONDS", 0.01)
    async with asyncio.timeout(30), run_gateway(tmp_path) as gateway, AsyncExitStack() as held:
        gate = GeneratorGate(gateway, at=1)
        turn = asyncio.create_task(complete(gateway))
        await gate.reached.wait()
        port = int(gateway.url.rpartition(":")[2])
        readers = []
        for _ in range(LIMIT + 3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            held.callback(writer.close)
            writer.write(sent)
            if sent == PUBLIC:
                await reader.readuntil(b"}")
            readers.append(reader)
        # The connection of the turn is counted until it is found to be authenticated.
        for reader in readers[:3]:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
        assert not any(reader.at_eof() for reader in readers[3:])
        gate.go.set()
        assert await turn == 200


async def test_incomplete_bodies_of_one_user_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key held 305 MiB in 500 bodies of which the end was missing."""
    monkeypatch.setattr(request_reader, "MAX_CALLER_REQUESTS", 2)
    monkeypatch.setattr(app, "MAX_WAITING_BODIES", 3)
    async with asyncio.timeout(30), run_gateway(tmp_path) as gateway, AsyncExitStack() as held:
        head = f"POST /api/messages HTTP/1.1\r\nAuthorization: Bearer {gateway.key}\r\n"
        answered = []
        for _ in range(LIMIT + 2):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", int(gateway.url.rpartition(":")[2])
            )
            held.callback(writer.close)
            writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
            answered.append(asyncio.create_task(reader.readline()))
        done, waiting = await asyncio.wait(answered, return_when=asyncio.FIRST_COMPLETED)
        while len(done) < 2:
            more, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= more
        assert {task.result().split(b" ")[1] for task in done} == {b"429"}
        assert len(waiting) == LIMIT
        assert await complete(gateway, gateway.other_key) == 200
        for task in waiting:
            task.cancel()


async def complete(gateway: GatewayUnderTest, key: str | None = None) -> int:
    """Return the status of a turn over OpenAI's API."""
    body = {"model": "thumbwheel", "messages": [{"role": "user", "content": "What is it?"}]}
    async with gateway.http.post(
        gateway.url + "/v1/chat/completions", json=body, headers=gateway.headers(key)
    ) as response:
        await response.read()
        return response.status
