"""What happens around every call, in one place and in this order: identity, deadline, rule, call, error to status, metrics, log.

One interceptor and not six, because each layer of grpc.aio interceptors costs time on the path to the first token.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from opentelemetry.propagate import extract
from opentelemetry.trace import set_span_in_context

from services.chassis.errors import DETAILS_KEY, InvalidArgumentError, ServiceError, status_details
from services.chassis.identity import CallContext, bind_call, caller_from
from services.chassis.mutual_tls import Callers, require_peer
from services.chassis.telemetry import RPC_SECONDS, RPCS, RPCS_RUNNING, fields, tracer

log = logging.getLogger(__name__)

# The protocol's own services have no caller and, as streams that are watched, no deadline.
EXEMPT_PREFIXES = ("/grpc.health.", "/grpc.reflection.")
MALFORMED = object()
INTERNAL_TEXT = "internal error"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps unary and server-streaming methods of a service."""

    def __init__(self, max_rpc_seconds: float, callers: Callers | None = None, *, secure: bool = False) -> None:
        self._max_rpc_seconds = max_rpc_seconds
        self._callers, self._secure = callers, secure

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(EXEMPT_PREFIXES):
            return handler
        deserializer = _tolerant(handler.request_deserializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary), deserializer, handler.response_serializer
            )
        return grpc.unary_stream_rpc_method_handler(
            self._stream(method, handler.unary_stream), deserializer, handler.response_serializer
        )

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with self._around(method, request, context):
                return await behaviour(request, context)

        return call

    def _stream(self, method: str, behaviour: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            async with self._around(method, request, context):
                async for response in behaviour(request, context):
                    yield response

        return call

    @asynccontextmanager
    async def _around(
        self, method: str, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[None]:
        started, code = time.perf_counter(), grpc.StatusCode.OK
        metadata = context.invocation_metadata() or ()
        caller, request_id = caller_from(metadata)
        name = method.rsplit("/", 1)[-1]
        RPCS_RUNNING.labels(name).inc()
        span = tracer().start_span(method, context=extract(dict(metadata)))
        try:
            bind_call(CallContext(caller, request_id, self._deadline(context), set_span_in_context(span)))
            require_peer(self._callers, method, context, secure=self._secure)
            if request is MALFORMED:
                text = "the request is not valid protobuf, or a text is not valid UTF-8"
                raise InvalidArgumentError(text, field="request")
            yield
        except ServiceError as error:
            code = error.code
            await context.abort(code, error.text, ((DETAILS_KEY, status_details(error)),))
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = grpc.StatusCode.ABORTED
            raise
        except Exception:
            # The last line of defence: nothing foreign may reach a caller.
            code = grpc.StatusCode.INTERNAL
            log.exception("call failed", extra=fields(method=name, request_id=request_id))
            await context.abort(code, INTERNAL_TEXT, ((DETAILS_KEY, status_details(ServiceError(INTERNAL_TEXT))),))
        finally:
            span.set_attribute("rpc.grpc.status_code", code.value[0])
            span.end()
            self._record(name, code, time.perf_counter() - started, request_id)

    def _deadline(self, context: grpc.aio.ServicerContext[Any, Any]) -> float:
        remaining = context.time_remaining()
        if remaining is None:
            raise InvalidArgumentError(
                "the call has no deadline", field="deadline", limit=f"{self._max_rpc_seconds:g} s"
            )
        return time.monotonic() + min(remaining, self._max_rpc_seconds)

    @staticmethod
    def _record(name: str, code: grpc.StatusCode, seconds: float, request_id: str) -> None:
        RPCS_RUNNING.labels(name).dec()
        RPCS.labels(name, code.name).inc()
        RPC_SECONDS.labels(name).observe(seconds)
        level = logging.INFO if code not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED) else logging.DEBUG
        log.log(
            level,
            "call ended",
            extra=fields(method=name, code=code.name, ms=round(seconds * 1000, 1), request_id=request_id),
        )


def _tolerant(deserializer: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """grpc.aio answers a malformed request with UNKNOWN and an internal class name; a sentinel lets us answer properly."""

    def read(data: bytes) -> Any:
        try:
            return deserializer(data) if deserializer else data
        except Exception:  # noqa: BLE001 - protobuf backends raise different types
            return MALFORMED

    return read
