"""Sending of answers: time limits, and the end of calls whose client does not read.

A client decides with its flow-control window when an answer leaves the server, and with its timeout
how long the call exists. Until then grpc.aio keeps the answer and the call's place among
`maximum_concurrent_rpcs`, even after the handler has returned or was cancelled. It has no function
that ends a call, hence `end_call`.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from typing import Any
from weakref import WeakKeyDictionary, ref

import grpc
from google.protobuf.message import Message

from services.chassis.errors import (
    DETAILS_KEY,
    ResourceExhaustedError,
    ServiceError,
    status_details,
)
from services.chassis.identity import Caller
from services.chassis.retries import PUSHBACK_KEY
from services.chassis.telemetry import RPCS_UNREAD, fields, labelled, trace_id

log = logging.getLogger(__name__)

# The gateway's HTTP server uses the same name.
TRACE_KEY = "x-trace-id"
# Longest wait for sending the status, which a client that reads nothing does not receive either.
STATUS_SECONDS = 1.0
# Unread answers of one caller; the largest answer, a page of a conversation, has half a MiB.
MAX_UNREAD_BYTES = 16 * 1024 * 1024
# Shortest time between two log lines about callers at their limit.
LINE_SECONDS = 60.0
# grpc.aio logs an error for each call whose connection was lost while its answer was unread.
CORE_LOG = "grpc._cython.cygrpc"
LOST_CONNECTION = 'Failed "execute_batch"'

Context = grpc.aio.ServicerContext[Any, Any]
Task = asyncio.Task[Any]
_creators: WeakKeyDictionary[Task, ref[Task]] = WeakKeyDictionary()


def prepare_event_loop() -> None:
    """Make `end_call` possible for the calls of servers in the running event loop."""

    def create_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> Task:
        task = asyncio.Task(coroutine, loop=loop, **named)
        if creator := asyncio.current_task(loop):
            _creators[task] = ref(creator)
        return task

    asyncio.get_running_loop().set_task_factory(create_task)
    logging.getLogger(CORE_LOG).addFilter(_is_no_lost_connection)


def _is_no_lost_connection(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not (isinstance(error, grpc.aio.InternalError) and LOST_CONNECTION in str(error))


def end_call(handler: Task) -> None:
    """End the call of a handler's task: its stream is reset, and its memory and place are free.

    grpc.aio runs a handler in a task. The task that created it waits for the end of the call. After
    both have ended nothing refers to the call, and the core cancels such a call.
    """
    creator = _creators.get(handler)
    if waiting := creator and creator():
        waiting.cancel()
    if handler is not asyncio.current_task():
        handler.cancel()


def limit_sending(method: str, seconds: float) -> None:
    """End the running call if its answer is unread after `seconds`.

    For handlers of unary methods, just before they return: grpc.aio sends the answer afterwards, in
    one step with the status, which costs less than `write`.
    """
    handler, unread = running_handler(), labelled(RPCS_UNREAD, method)
    timer = asyncio.get_running_loop().call_later(seconds, end_call, handler)

    def finish(_: Task) -> None:
        timer.cancel()
        unread.dec()

    unread.inc()
    handler.add_done_callback(finish)


async def write(method: str, context: Context, response: Any, seconds: float) -> None:
    """Write one message of a stream within `seconds`.

    Raises:
        ResourceExhaustedError: the reader does not read.
        asyncio.CancelledError: the connection was lost.
    """
    unread = labelled(RPCS_UNREAD, method)
    unread.inc()
    try:
        async with asyncio.timeout(seconds):
            await context.write(response)
    except TimeoutError as error:
        raise ResourceExhaustedError(
            "the reader is too slow", reason="READER_TOO_SLOW", limit=f"{seconds:g} s a message"
        ) from error
    except grpc.aio.InternalError:
        raise asyncio.CancelledError from None
    finally:
        unread.dec()


async def abort(context: Context, error: ServiceError, retry_after: str | None = None) -> None:
    """End a call with an error. `retry_after` is the pushback, see `retries`.

    Raises:
        grpc.aio.AbortError: the status is sent.
        asyncio.CancelledError: the status cannot be sent, the call is ended without.
    """
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status_details(error))]
    if found := trace_id():
        trailers.append((TRACE_KEY, found))
    if retry_after:
        trailers.append((PUSHBACK_KEY, retry_after))
    # An InternalError: an unread message is in front of the status, or the connection was lost.
    with contextlib.suppress(TimeoutError, grpc.aio.InternalError):
        async with asyncio.timeout(STATUS_SECONDS):
            await context.abort(error.code, error.text, tuple(trailers))
    end_call(running_handler())
    raise asyncio.CancelledError


class CallerCalls:
    """Open calls of each caller: those that run, and those whose answer is unread, with its size.

    Args:
        maximum: open calls of one user or shared key; 0: unlimited.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._open: Counter[Caller] = Counter()
        self._unread_bytes: Counter[Caller] = Counter()
        self._next_line = 0.0

    def count(self, caller: Caller) -> None:
        """Count the running call until it is finished.

        Raises:
            ResourceExhaustedError: the caller has too many open calls.
        """
        holder = caller.holder
        if not self._maximum or not holder.user:
            return
        if self._open[holder] >= self._maximum:
            if (now := time.monotonic()) >= self._next_line:
                self._next_line = now + LINE_SECONDS
                names = fields(tenant=holder.tenant, user=holder.user, calls=self._maximum)
                log.warning("open calls of a caller at their limit", extra=names)
            raise ResourceExhaustedError(
                "too many calls of this key are open",
                reason="TOO_MANY_CALLS",
                limit=f"{self._maximum} calls of a key at once",
            )
        add_until_finished(self._open, holder, 1)

    def hold(self, caller: Caller, answer: Message) -> None:
        """Count the answer of the running call until it is read.

        Raises:
            ResourceExhaustedError: too many bytes of the caller's answers are unread.
        """
        holder = caller.holder
        if not self._maximum or not holder.user:
            return
        size, held = answer.ByteSize(), self._unread_bytes[holder]
        if held and held + size > MAX_UNREAD_BYTES:
            raise ResourceExhaustedError(
                "too many answers to this key are unread",
                reason="TOO_MANY_CALLS",
                limit=f"{MAX_UNREAD_BYTES // 2**20} MiB of unread answers",
            )
        add_until_finished(self._unread_bytes, holder, size)


def add_until_finished(counts: Counter[Caller], holder: Caller, amount: int) -> None:
    """Add to a count until the running call is finished."""

    def subtract(_: Task) -> None:
        counts[holder] -= amount
        if not counts[holder]:
            del counts[holder]

    counts[holder] += amount
    running_handler().add_done_callback(subtract)


def running_handler() -> Task:
    """Return the task of the running call."""
    task = asyncio.current_task()
    assert task is not None, "outside of a call"
    return task
