"""Connections without an authenticated request are limited; the oldest is dropped."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.gateway.http import server
from tests.services.gateway.calls import GeneratorGate
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway

LIMIT = 5
PUBLIC = b"GET /health HTTP/1.1\r\nHost: loopback\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nx-slow: ", PUBLIC])
async def test_oldest_connections_of_strangers_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Silent connections occupied all files, so that no connection was accepted any more."""
    monkeypatch.setattr(server, "MAX_STRANGERS", LIMIT)
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


async def complete(gateway: GatewayUnderTest) -> int:
    """Return the status of a turn over OpenAI's API."""
    body = {"model": "thumbwheel", "messages": [{"role": "user", "content": "What is it?"}]}
    async with gateway.http.post(
        gateway.url + "/v1/chat/completions", json=body, headers=gateway.headers()
    ) as response:
        await response.read()
        return response.status
