"""HTTP/2 frames on loopback, built by hand (RFC 9113), for clients that break the rules.

Correct clients never leave a message incomplete and always read responses.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4
DEFAULT_WINDOW, MAX_FRAME = 65_535, 16_384


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", stream)
        + payload
    )


def header(name: bytes, value: bytes) -> bytes:
    """Return an HPACK literal with a new name, not indexed (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request_block(path: bytes, metadata: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """Return the header block of a gRPC call."""
    return b"".join(
        header(name, value)
        for name, value in (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"loopback"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *metadata,
        )
    )


def grpc_message(body: bytes) -> bytes:
    """Return the length-prefixed message of gRPC."""
    return struct.pack(">BI", 0, len(body)) + body


class RawConnection:
    """One connection that obeys the server's windows and answers its pings.

    `ended` has the streams that the server ended, `received` the bytes of DATA frames by stream.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._next_stream = 1
        self._initial = DEFAULT_WINDOW
        # By stream: bytes that may be sent; stream 0 is the connection.
        self._windows: dict[int, int] = {0: DEFAULT_WINDOW}
        self._changed = asyncio.Event()
        self.ended: set[int] = set()
        self.received: dict[int, bytes] = {}

    async def start_call(
        self, path: bytes, metadata: Sequence[tuple[bytes, bytes]] = (), data: bytes = b""
    ) -> int:
        """Send the headers of a call and a complete or incomplete message. Returns the stream.

        Waits until the server's windows allow all of `data`, or until the server ends the stream.
        """
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._windows[stream] = self._initial
        self._writer.write(frame(HEADERS, END_HEADERS, stream, request_block(path, metadata)))
        while data and stream not in self.ended:
            size = min(len(data), MAX_FRAME, self._windows[0], self._windows[stream])
            if size > 0:
                self._windows[0] -= size
                self._windows[stream] -= size
                self._writer.write(frame(DATA, 0, stream, data[:size]))
                data = data[size:]
                await self._writer.drain()
            else:
                await self.changed()
        return stream

    async def changed(self) -> None:
        """Wait for the next frame of the server."""
        self._changed.clear()
        await self._changed.wait()

    async def until_ended(self, stream: int) -> None:
        """Wait until the server ends the stream."""
        while stream not in self.ended:
            await self.changed()

    async def read_frames(self) -> None:
        """Process frames of the server until it disconnects."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                stream = int.from_bytes(head[5:], "big")
                self._process(head[3], head[4], stream, payload)
                self._changed.set()

    def _process(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        match kind:
            case 4 if not flags & ACK:
                for key, value in struct.iter_unpack(">HI", payload):
                    if key == INITIAL_WINDOW_SIZE:
                        for known in self._windows.keys() - {0}:
                            self._windows[known] += value - self._initial
                        self._initial = value
                self._writer.write(frame(SETTINGS, ACK, 0))
            case 8:
                self._windows[stream] += int.from_bytes(payload, "big")
            case 6 if not flags & ACK:
                self._writer.write(frame(PING, ACK, 0, payload))
            case 0:
                self.received[stream] = self.received.get(stream, b"") + payload
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            self.ended.add(stream)


@asynccontextmanager
async def raw_connection(port: int, response_window: int = DEFAULT_WINDOW) -> AsyncIterator[Any]:
    """Open a connection whose responses are limited to `response_window` bytes a stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = RawConnection(reader, writer)
    settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, response_window)
    writer.write(PREFACE + frame(SETTINGS, 0, 0, settings))
    reading = asyncio.create_task(connection.read_frames())
    try:
        # The settings of the server.
        await connection.changed()
        yield connection
    finally:
        reading.cancel()
        writer.close()
