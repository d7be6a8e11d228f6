"""Forwarded ports copy all bytes in both directions, also after a half-close."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from infra.run.deploy.port_forward import serve

ADDRESS = "public.address"
PAYLOAD = os.urandom(300_000)


@asynccontextmanager
async def forwarding(port: int, folder: Path, address: str = "127.0.0.1") -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    (folder / ADDRESS).write_text(address)
    task = asyncio.create_task(serve(listener, (folder / ADDRESS).read_text, port))
    try:
        yield listener.getsockname()[1]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_request_and_response_are_forwarded_completely(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard = await reader.read(-1)
        writer.write(heard[::-1])
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0) as inner,
        forwarding(inner.sockets[0].getsockname()[1], tmp_path) as port,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(PAYLOAD)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(-1), 10) == PAYLOAD[::-1]
        writer.close()
        await writer.wait_closed()


async def test_missing_target_closes_the_connection(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unused_port = unused.getsockname()[1]
    async with forwarding(unused_port, tmp_path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()


async def test_changed_address_redirects_new_connections(
    tmp_path: Path,
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("sockname")[0].encode())
        writer.close()

    async def ask(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        received = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return received

    async with (
        await asyncio.start_server(answer, ["127.0.0.1"]) as first,
        await asyncio.start_server(answer, ["127.0.0.2"], first.sockets[0].getsockname()[1]),
        forwarding(first.sockets[0].getsockname()[1], tmp_path) as port,
    ):
        assert await ask(port) == b"127.0.0.1"
        (tmp_path / ADDRESS).write_text("127.0.0.2")
        assert await ask(port) == b"127.0.0.2"
