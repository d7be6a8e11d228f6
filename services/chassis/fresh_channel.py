"""Channels that are made anew while calls run: gRPC's own keep their certificates for ever, and ask
for a name's addresses only when one that they have is lost. By then calls have failed; this way a
new replica is known before the old one goes.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

LOOK_AGAIN_SECONDS = 1.0
CONNECT_SECONDS = 10.0
# An old channel is closed when its streams are over, at the latest after the longest call.
OLD_CHANNEL_SECONDS = 900.0


class FreshChannel:
    """What stubs need of a channel. From its first call on it looks whether something has changed,
    called or not: the next call after a quiet minute must not be the one that finds out. If so
    another one is opened, and used as soon as it is connected: what works meanwhile is not given up
    for what may not.
    """

    def __init__(
        self, open_anew: Callable[[], grpc.aio.Channel], watched: Sequence[Callable[[], object]]
    ) -> None:
        self._open, self._watched = open_anew, watched
        self._seen = self._look()
        self._channel = self._open()
        self._watching: asyncio.Task[None] | None = None
        self._old: dict[grpc.aio.Channel, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "FreshChannel":
        return self

    async def __aexit__(self, *error: object) -> None:
        tasks = [*self._old.values(), *([self._watching] if self._watching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in (*self._old, self._channel)))

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method(lambda channel: channel.unary_unary(*arguments, **named))

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._method(lambda channel: channel.unary_stream(*arguments, **named))

    def _method(self, bind: Callable[[grpc.aio.Channel], Any]) -> Any:
        channel, bound = self._channel, bind(self._channel)

        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal channel, bound
            if (
                self._watching is None or self._watching.done()
            ):  # done: another one could not be opened
                self._watching = asyncio.create_task(self._watch())
            if channel is not self._channel:
                channel, bound = self._channel, bind(self._channel)
            return bound(*arguments, **named)

        return call

    def _look(self) -> Sequence[object]:
        return [look() for look in self._watched]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            if (seen := self._look()) != self._seen:
                await self._replace(seen)

    async def _replace(self, seen: Sequence[object]) -> None:
        fresh = self._open()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await fresh.channel_ready()
        except BaseException as error:
            await fresh.close()
            if not isinstance(error, TimeoutError):
                raise
        else:
            old, self._channel, self._seen = self._channel, fresh, seen
            self._old[old] = asyncio.create_task(old.close(OLD_CHANNEL_SECONDS))
            self._old[old].add_done_callback(lambda _: self._old.pop(old))


class Addresses:
    """Those of the name in `dns:///name:port`, as they were a moment ago: each look may begin to
    ask for them, none waits.

    Nobody is asked at once: that a peer is not there yet, when a whole release starts, name
    services remember for seconds.
    """

    def __init__(self, target: str) -> None:
        self._name = target.rpartition("/")[2].rpartition(":")[0]
        self._known: frozenset[str] = frozenset()
        self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
        self._asking: asyncio.Task[None] | None = None

    def __call__(self) -> frozenset[str]:
        """None yet, or the last that were found."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
            self._asking = asyncio.create_task(self._ask())
        return self._known

    async def _ask(self) -> None:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                self._name, None, type=socket.SOCK_STREAM
            )
        except OSError:
            return  # a name service that is away says nothing about the replicas
        self._known = frozenset(str(address[0]) for *_, address in found)
