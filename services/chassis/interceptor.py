"""Server interceptor: identity, deadline, access rule, admission, call, errors, metrics, log.

These steps run in this order. One interceptor does all of them, because each layer of grpc.aio
interceptors adds time before the first token.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
from opentelemetry.propagate import extract
from opentelemetry.trace import set_span_in_context

from services.chassis.admission import Admission, Priority
from services.chassis.errors import (
    DETAILS_KEY,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    status_details,
)
from services.chassis.identity import CallContext, bind_call, caller_from, current_call
from services.chassis.mutual_tls import AllowedCallers, require_peer
from services.chassis.retries import PUSHBACK_KEY, pushback
from services.chassis.settings import ServiceSettings
from services.chassis.telemetry import (
    RPC_SECONDS,
    RPCS,
    RPCS_RUNNING,
    fields,
    labelled,
    trace_id,
    tracer,
)

log = logging.getLogger(__name__)

# Services of gRPC itself: they have no caller, and their watch streams have no deadline.
EXEMPT_PREFIXES = ("/grpc.health.", "/grpc.reflection.")
MALFORMED = object()
INTERNAL_TEXT = "internal error"
# The gateway's HTTP server uses the same name.
TRACE_KEY = "x-trace-id"
# Longest wait for sending the status. If the reader does not read, the status cannot be written
# either; gRPC sends the status when the reader continues or the deadline passes.
STATUS_SECONDS = 1.0

Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Interceptor for the unary and server-streaming methods of a service.

    Args:

        callers: the services that may call each method; None if the servicer checks callers.
        batch: paths of the methods that leave the queue last.
        unlimited: paths of the methods without admission, because the work they start has its own.
        secure: callers have certificates.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        admission: Admission,
        callers: AllowedCallers | None,
        *,
        batch: Collection[str] = (),
        unlimited: Collection[str] = (),
        secure: bool,
    ) -> None:
        self._max_rpc_seconds, self._write_seconds = (
            settings.max_rpc_seconds,
            settings.max_write_seconds,
        )
        self._admission, self._batch, self._unlimited = admission, batch, unlimited
        self._callers, self._secure = callers, secure
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = handler_call_details.method
        if method in self._handlers:
            return self._handlers[method]
        handler = await continuation(handler_call_details)
        if handler is None or method.startswith(EXEMPT_PREFIXES):
            return handler
        deserializer = _lenient(handler.request_deserializer)
        if handler.unary_unary:
            wrapped = grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary), deserializer, handler.response_serializer
            )
        else:
            wrapped = grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                deserializer,
                handler.response_serializer,
            )
        return self._handlers.setdefault(method, wrapped)

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            async with self._call(method, request, context):
                return await behaviour(request, context)

        return call

    def _stream(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> None:
            async with (
                self._call(method, request, context) as answered,
                aclosing(behaviour(request, context)) as responses,
            ):
                async for response in responses:
                    await self._write(context, response)
                    answered()

        return call

    @asynccontextmanager
    async def _call(
        self, method: str, request: Any, context: Context
    ) -> AsyncIterator[Callable[[], None]]:
        """Run a call in the block. Yields a function that reports the first answer.

        A block that ends without an error counts as answered.
        """
        started, code = time.perf_counter(), grpc.StatusCode.OK
        metadata = context.invocation_metadata() or ()
        caller, request_id = caller_from(metadata)
        name = method.rsplit("/", 1)[-1]
        labelled(RPCS_RUNNING, name).inc()
        span = tracer().start_span(method, context=extract(dict(metadata)))
        try:
            bind_call(
                CallContext(caller, request_id, self._deadline(context), set_span_in_context(span))
            )
            if found := trace_id():
                # Not in the initial metadata: after these gRPC clients do not retry a call.
                context.set_trailing_metadata(((TRACE_KEY, found),))
            require_peer(self._callers, method, context, secure=self._secure)
            if request is MALFORMED:
                text = "the request is not valid protobuf, or a string is not valid UTF-8"
                raise InvalidArgumentError(text, field="request")
            async with self._admitted(method) as answered:
                yield answered
        except ServiceError as error:
            code = error.code
            await _abort(context, error, pushback(error, method, request, context))
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = grpc.StatusCode.ABORTED
            raise
        except Exception:
            # Catch-all at the process boundary: internals must not reach a caller.
            code = grpc.StatusCode.INTERNAL
            log.exception("call failed", extra=fields(method=name, request_id=request_id))
            await _abort(context, ServiceError(INTERNAL_TEXT), None)
        finally:
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            span.end()
            self._record(name, code, time.perf_counter() - started, request_id)

    @asynccontextmanager
    async def _admitted(self, method: str) -> AsyncIterator[Callable[[], None]]:
        if method in self._unlimited:
            yield lambda: None
            return
        priority = Priority.BATCH if method in self._batch else Priority.INTERACTIVE
        # At most half of the remaining time: the rest must suffice for the call itself.
        queue_seconds = current_call().remaining_seconds(math.inf) / 2
        async with self._admission.admitted(method, priority, queue_seconds) as ticket:
            yield lambda: self._admission.answered(ticket)
            self._admission.answered(ticket)

    async def _write(self, context: Context, response: Any) -> None:
        try:
            async with asyncio.timeout(self._write_seconds):
                await context.write(response)
        except TimeoutError as error:
            limit = f"{self._write_seconds:g} s a message"
            raise ResourceExhaustedError(
                "the reader is too slow", reason="READER_TOO_SLOW", limit=limit
            ) from error

    def _deadline(self, context: Context) -> float:
        remaining = context.time_remaining()
        if remaining is None:
            raise InvalidArgumentError(
                "the call has no deadline", field="deadline", limit=f"{self._max_rpc_seconds:g} s"
            )
        return time.monotonic() + min(remaining, self._max_rpc_seconds)

    @staticmethod
    def _record(name: str, code: grpc.StatusCode, seconds: float, request_id: str) -> None:
        labelled(RPCS_RUNNING, name).dec()
        labelled(RPCS, name, code.name).inc()
        labelled(RPC_SECONDS, name).observe(seconds)
        level = (
            logging.INFO
            if code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED)
            else logging.DEBUG
        )
        if log.isEnabledFor(level):
            values = fields(
                method=name, code=code.name, ms=round(seconds * 1000, 1), request_id=request_id
            )
            log.log(level, "call ended", extra=values)


async def _abort(context: Context, error: ServiceError, retry_after: str | None) -> None:
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status_details(error))]
    if found := trace_id():
        trailers.append((TRACE_KEY, found))
    if retry_after:
        trailers.append((PUSHBACK_KEY, retry_after))
    with suppress(TimeoutError):
        async with asyncio.timeout(STATUS_SECONDS):
            await context.abort(error.code, error.text, tuple(trailers))


def _lenient(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Return a deserializer that returns MALFORMED for an invalid request.

    On an error of the deserializer grpc.aio answers UNKNOWN with an internal class name.
    """

    def read(data: bytes) -> Any:
        try:
            return deserializer(data) if deserializer else data
        except Exception:  # noqa: BLE001 - protobuf backends raise different types
            return MALFORMED

    return read
