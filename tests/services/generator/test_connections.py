"""Connections to model servers are not reused."""

import asyncio
from typing import Any

from services.generator.__main__ import open_http

BODY = b'{"messages": []}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def test_a_used_connection_is_not_reused() -> None:
    handlers: list[asyncio.Task[Any] | None] = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Announce keep-alive, and close the connection when the next request arrives."""
        handlers.append(asyncio.current_task())
        await reader.readuntil(BODY)
        writer.write(ANSWER)
        await reader.read(1)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat/completions"
    async with server:
        async with open_http(5.0) as http:
            for _ in range(3):
                async with http.post(url, json={"messages": []}) as response:
                    assert await response.json() == {}
        await asyncio.gather(*[task for task in handlers if task])
    assert len(handlers) == 3
