"""DNS server for one name over UDP on loopback, with addresses that a test can change."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

NAME = "replicas.test"
HEADER, TYPE_A, CLASS_IN, RECURSIVE_ANSWER = struct.Struct("!6H"), 1, 1, 0x8180


@dataclass
class Names(asyncio.DatagramProtocol):
    """DNS records of the name: `addresses` as A records with a TTL of 0, no other records."""

    addresses: Sequence[str] = ()
    port: int = 0
    asked: int = 0
    _transport: Any = field(default=None)

    def connection_made(self, transport: Any) -> None:
        self._transport, self.port = transport, transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, source: Any) -> None:
        self.asked += 1
        number, end = HEADER.unpack_from(data)[0], data.index(b"\0", HEADER.size) + 5
        (kind,) = struct.unpack_from("!H", data, end - 4)
        found = self.addresses if kind == TYPE_A else ()
        answer = (
            HEADER.pack(number, RECURSIVE_ANSWER, 1, len(found), 0, 0) + data[HEADER.size : end]
        )
        for address in found:
            answer += struct.pack("!HHHIH", 0xC00C, TYPE_A, CLASS_IN, 0, 4) + socket.inet_aton(
                address
            )
        self._transport.sendto(answer, source)

    def getaddrinfo(self, name: str, *_arguments: Any, **_named: Any) -> list[Any]:
        """Replace `socket.getaddrinfo`, because libc cannot be directed to this server."""
        assert name == NAME
        self.asked += 1
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in self.addresses
        ]


@asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[Names]:
    loop = asyncio.get_running_loop()
    transport, names = await loop.create_datagram_endpoint(
        lambda: Names(addresses), local_addr=("127.0.0.1", 0)
    )
    try:
        yield names
    finally:
        transport.close()
