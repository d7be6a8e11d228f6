"""Limits on the time and size of a request head. uvicorn has neither limit."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
# Twice the limit of gRPC metadata, since browsers send more headers.
MAX_HEAD_BYTES = 32 * 1024


class HeaderTimeoutProtocol(HttpToolsProtocol):
    """Drops connections with a slow or oversized request head.

    The first head is due from the start of the connection.
    """

    _due: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._due:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def _expect_head(self) -> None:
        if self._due is None:
            self._due, self._head_bytes = (
                self.loop.call_later(HEAD_SECONDS, self.transport.abort),
                0,
            )

    def _stop_waiting(self) -> None:
        if self._due:
            self._due.cancel()
            self._due = None
