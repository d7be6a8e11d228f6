"""Receipt of request messages, with limits on the time and the number of incomplete ones.

grpc.aio starts the handler of a unary method when the message is complete, without a limit on the
wait. Handlers of stream methods start with the metadata and receive the message themselves, which
is the same on the wire. Before the receipt a stream holds at most its flow-control window.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any
from weakref import WeakValueDictionary

import grpc

from services.chassis.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from services.chassis.identity import Caller

MALFORMED = object()
# A message that arrives within the grace period is not slow, so that the limit does not affect
# bursts of complete requests. Incomplete messages hold at most what arrives in this time, plus
# MAX_SLOW_REQUESTS messages of the largest size.
GRACE_SECONDS, MAX_SLOW_REQUESTS = 1.0, 16
# Requests of one caller that are received at the same time. Further requests wait and hold at most
# one flow-control window, so that one key cannot fill the memory within the grace period. Complete
# requests are received at once, so that the limit does not affect them.
MAX_CALLER_REQUESTS = 32


class ReceiveSlots:
    """Slots for receiving the requests of a caller.

    Args:
        max_waiting: requests that may wait for a slot; None: no limit.

    Raises:
        ResourceExhaustedError: at the start of the block, if too many requests wait.
    """

    def __init__(self, max_waiting: int | None = None) -> None:
        self._running = asyncio.Semaphore(MAX_CALLER_REQUESTS)
        self._max_waiting, self._waiting = max_waiting, 0

    async def __aenter__(self) -> None:
        if self._running.locked() and self._waiting == self._max_waiting:
            raise ResourceExhaustedError(
                "too many requests of this caller arrive slowly",
                field="request",
                reason="REQUEST_TOO_SLOW",
                limit=f"{MAX_CALLER_REQUESTS + self._waiting} at once",
            )
        self._waiting += 1
        try:
            await self._running.acquire()
        finally:
            self._waiting -= 1

    async def __aexit__(self, *error: object) -> None:
        self._running.release()


class ReceiveSlotsByCaller:
    """Slots by caller, kept while a request is being received."""

    def __init__(self, max_waiting: int | None = None) -> None:
        self._max_waiting = max_waiting
        self._slots: WeakValueDictionary[Caller, ReceiveSlots] = WeakValueDictionary()

    def of(self, caller: Caller | None) -> AbstractAsyncContextManager[None]:
        """Return the slots of a user; without a limit for a service that calls for itself."""
        if caller is None or not caller.user:
            return nullcontext()
        return self._slots.setdefault(caller.holder, ReceiveSlots(self._max_waiting))


class RequestReader:
    """Receives the request of each call within `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slow: set[asyncio.Timeout] = set()
        # Without a limit of those that wait, because each call of a burst waits for its turn.
        self._receive_slots = ReceiveSlotsByCaller()

    async def read(
        self, context: grpc.aio.ServicerContext[Any, Any], caller: Caller | None = None
    ) -> Any:
        """Return the only request of a call, deserialized by `lenient`.

        Args:
            context: the call.
            caller: user whose requests in receipt are limited; a service, which calls for itself,
                has no limit.

        Raises:
            InvalidArgumentError: the message is malformed, or the caller sent none.
            DeadlineExceededError: the message is incomplete after the time limit.
            ResourceExhaustedError: the message is slow, and too many others are slow.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._seconds) as limit, self._receive_slots.of(caller):
                grace_seconds = min(GRACE_SECONDS, self._seconds / 2)
                grace = loop.call_later(grace_seconds, self._mark_slow, limit, loop)
                try:
                    request = await context.read()
                finally:
                    grace.cancel()
        except TimeoutError as error:
            raise self._too_slow(limit) from error
        finally:
            self._slow.discard(limit)
        if request is grpc.aio.EOF:
            raise InvalidArgumentError("the call has no request", field="request")
        if request is MALFORMED:
            text = "the request is not valid protobuf, or a string is not valid UTF-8"
            raise InvalidArgumentError(text, field="request")
        return request

    def _mark_slow(self, limit: asyncio.Timeout, loop: asyncio.AbstractEventLoop) -> None:
        if len(self._slow) < MAX_SLOW_REQUESTS:
            self._slow.add(limit)
        else:
            limit.reschedule(loop.time())

    def _too_slow(self, limit: asyncio.Timeout) -> DeadlineExceededError | ResourceExhaustedError:
        if limit in self._slow:
            return DeadlineExceededError(
                "the request did not arrive in time",
                field="request",
                reason="REQUEST_TOO_SLOW",
                limit=f"{self._seconds:g} s",
            )
        return ResourceExhaustedError(
            "too many requests arrive slowly",
            field="request",
            reason="REQUEST_TOO_SLOW",
            limit=f"{MAX_SLOW_REQUESTS} at once",
        )


def lenient(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Return a deserializer that returns MALFORMED for an invalid request.

    On an error of the deserializer grpc.aio answers UNKNOWN with an internal class name.
    """

    def read(data: bytes) -> Any:
        try:
            return deserializer(data) if deserializer else data
        except Exception:  # noqa: BLE001 - protobuf backends raise different types
            return MALFORMED

    return read
