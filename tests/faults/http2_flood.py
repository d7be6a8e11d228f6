"""Floods of an HTTP/2 port on loopback, in a separate process.

Usage: `python -m tests.faults.http2_flood PORT KIND SECONDS A_SECOND`. The frames are built by hand
(RFC 9113), because correct clients never send them. Prints the number of frames.
"""

import asyncio
import contextlib
import struct
import sys
import time
from collections.abc import Callable, Iterator
from enum import StrEnum

from tests.support.http2 import (
    END_HEADERS,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    request_block,
)

CANCEL = struct.pack(">I", 8)
PATH = b"/thumbwheel.chat.v1.ChatService/ListConversations"
BATCH = 20


class Kind(StrEnum):
    RAPID_RESET = "rapid-reset"
    PINGS = "pings"
    STREAMS = "streams"


BLOCK = request_block(PATH, [(b"grpc-timeout", b"10S")])


def frames(kind: Kind) -> Iterator[bytes]:
    """Yield frames until the stream ids are exhausted."""
    for stream in range(1, 1 << 30, 2):
        match kind:
            case Kind.RAPID_RESET:
                yield frame(HEADERS, END_HEADERS, stream, BLOCK) + frame(
                    RST_STREAM, 0, stream, CANCEL
                )
            case Kind.PINGS:
                yield frame(PING, 0, 0, struct.pack(">Q", stream))
            case Kind.STREAMS:
                yield frame(HEADERS, END_HEADERS, stream, BLOCK)


async def flood(port: int, kind: Kind, seconds: float, a_second: float) -> tuple[int, int]:
    """Flood the port and reconnect when disconnected. Returns numbers of frames and disconnects."""
    end, sent, cut = time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        more = await connection(port, frames(kind), end, a_second)
        sent += more
        cut += time.monotonic() < end
    return sent, cut


async def connection(port: int, of: Iterator[bytes], end: float, a_second: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    reading = asyncio.create_task(_read(reader))
    writer.write(PREFACE + frame(SETTINGS, 0, 0))
    sent, began = 0, time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() < end and not reading.done():
            writer.write(b"".join(next(of) for _ in range(BATCH)))
            await writer.drain()
            sent += BATCH
            await asyncio.sleep(max(0.0, began + sent / a_second - time.monotonic()))
    writer.close()
    reading.cancel()
    return sent


async def _read(reader: asyncio.StreamReader) -> None:
    """Discard all input until the server disconnects, to keep its buffers empty."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(65_536):
            pass


def main(arguments: list[str], say: Callable[[str], None] = print) -> None:
    port, kind, seconds, a_second = arguments
    sent, cut = asyncio.run(flood(int(port), Kind(kind), float(seconds), float(a_second)))
    say(f"{sent} {cut}")


if __name__ == "__main__":
    main(sys.argv[1:])
