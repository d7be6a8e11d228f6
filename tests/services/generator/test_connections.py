"""A model server that goes takes no request with it which another one would have answered."""

import asyncio

from services.generator.__main__ import open_http

BODY = b'{"messages": []}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Promise to keep the connection, and close it as the next request arrives."""
    await reader.readuntil(BODY)
    writer.write(ANSWER)
    await reader.read(1)
    writer.close()


async def test_a_connection_that_was_used_is_not_used_again() -> None:
    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, open_http(5.0) as http:
        for _ in range(3):
            async with http.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={"messages": []}) as response:
                assert await response.json() == {}
