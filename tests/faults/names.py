"""A DNS server for one name on loopback, with changeable addresses (RFC 1035)."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

HEADER = struct.Struct("!6H")
TYPE_A, CLASS_IN = 1, 1
# Flags: response, authoritative. Questions of other types get no answers.
FLAGS = 0x8400
POINTER_TO_QUESTION = 0xC00C


class NameServer(asyncio.DatagramProtocol):
    """DNS server with changeable `addresses`. `questions` counts the queries."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = list(addresses)
        self.questions = 0
        self.port = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.questions += 1
        number = HEADER.unpack(data[: HEADER.size])[0]
        end = data.index(b"\0", HEADER.size) + 5
        question = data[HEADER.size : end]
        asked = struct.unpack("!H", question[-4:-2])[0]
        found = self.addresses if asked == TYPE_A else []
        answers = [
            struct.pack("!HHHIH", POINTER_TO_QUESTION, TYPE_A, CLASS_IN, 0, 4)
            + socket.inet_aton(address)
            for address in found
        ]
        self._transport.sendto(
            HEADER.pack(number, FLAGS, 1, len(answers), 0, 0) + question + b"".join(answers), addr
        )


@asynccontextmanager
async def name_server(addresses: Sequence[str]) -> AsyncIterator[NameServer]:
    """Serve DNS during the block."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: NameServer(addresses), local_addr=("127.0.0.1", 0)
    )
    server.port = transport.get_extra_info("sockname")[1]
    try:
        yield server
    finally:
        transport.close()
