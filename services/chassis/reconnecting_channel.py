"""Channels that are replaced while calls run, when certificates or addresses change.

gRPC's own channels keep their certificates, and resolve a name again only after a connection is
lost. Calls have failed by then. This channel learns of a new replica before the old replica stops.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

CHECK_INTERVAL_SECONDS = 1.0
CONNECT_SECONDS = 10.0
# Grace period of a replaced channel: its streams may end by themselves, up to the longest call.
CLOSE_GRACE_SECONDS = 900.0


class ReconnectingChannel:
    """Channel for stubs that connects again when one of its sources returns another value.

    The sources are compared every CHECK_INTERVAL_SECONDS from the first call on, also while no call
    runs: otherwise the first call after a quiet minute would fail. After a change a new channel is
    opened and used once connected; the working channel stays in use until then.
    """

    def __init__(
        self, connect: Callable[[], grpc.aio.Channel], sources: Sequence[Callable[[], object]]
    ) -> None:
        self._connect, self._sources = connect, sources
        self._values = self._read_sources()
        self._channel = self._connect()
        self._watcher: asyncio.Task[None] | None = None
        self._closing: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "ReconnectingChannel":
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = [*self._closing.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in (*self._closing, self._channel)))

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """Create a unary call as `grpc.aio.Channel.unary_unary`."""
        return self._method(lambda channel: channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """Create a streaming call as `grpc.aio.Channel.unary_stream`."""
        return self._method(lambda channel: channel.unary_stream(*arguments, **named))

    def _method(self, bind: Callable[[grpc.aio.Channel], Any]) -> Any:
        channel, bound = self._channel, bind(self._channel)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal channel, bound
            # The watcher ends with the error of a failed connect; the next call starts another.
            if self._watcher is None or self._watcher.done():
                self._watcher = asyncio.create_task(self._watch())
            if channel is not self._channel:
                channel, bound = self._channel, bind(self._channel)
            return bound(*arguments, **named)

        return call

    def _read_sources(self) -> Sequence[object]:
        return [read() for read in self._sources]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)
            if (values := self._read_sources()) != self._values:
                await self._replace(values)

    async def _replace(self, values: Sequence[object]) -> None:
        replacement = self._connect()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await replacement.channel_ready()
        except BaseException as error:
            await replacement.close()
            if not isinstance(error, TimeoutError):
                raise
        else:
            old, self._channel, self._values = self._channel, replacement, values
            self._closing[old] = asyncio.create_task(old.close(CLOSE_GRACE_SECONDS))
            self._closing[old].add_done_callback(lambda _: self._closing.pop(old))


class ResolvedAddresses:
    """Latest known addresses of the name in `dns:///name:port`, resolved in the background.

    A call never waits: a due lookup starts, and the previous result is returned. The first lookup
    is delayed by CHECK_INTERVAL_SECONDS, because name servers cache for seconds that a peer does
    not exist yet while a whole release starts.
    """

    def __init__(self, target: str) -> None:
        self._name = target.rpartition("/")[2].rpartition(":")[0]
        self._addresses: frozenset[str] = frozenset()
        self._next_lookup = time.monotonic() + CHECK_INTERVAL_SECONDS
        self._lookup: asyncio.Task[None] | None = None

    def __call__(self) -> frozenset[str]:
        """Return the addresses of the last successful lookup; empty before the first."""
        if time.monotonic() >= self._next_lookup:
            self._next_lookup = time.monotonic() + CHECK_INTERVAL_SECONDS
            self._lookup = asyncio.create_task(self._resolve())
        return self._addresses

    async def _resolve(self) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self._name, None, type=socket.SOCK_STREAM
            )
        except OSError:
            return  # An unavailable name server is no evidence about the replicas.
        self._addresses = frozenset(str(address[0]) for *_, address in found)
