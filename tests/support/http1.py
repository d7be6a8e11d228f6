"""Requests of HTTP/1.1 as raw bytes, for clients breaking the rules."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class RawAnswer:
    """Answer to raw bytes. `status` is 0 if the server closed the connection without an answer."""

    status: int
    head: bytes
    body: bytes


async def raw_request(port: int, data: bytes, seconds: float = 30) -> RawAnswer:
    """Send bytes to a port of this machine and return the first answer.

    The request should ask for `Connection: close`, so that the body ends with the connection.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        async with asyncio.timeout(seconds):
            with suppress(ConnectionError):
                writer.write(data)
                await writer.drain()
                received = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
    return RawAnswer(status, head.lower(), body)
