"""Server interceptor: identity, deadline, access rule, request, admission, call, errors, log.

These steps run in this order; the request is received after the access rule, so that a message of a
client without a key is never held. One interceptor does all of them, because each layer of grpc.aio
interceptors adds time before the first token.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import grpc
from opentelemetry.propagate import extract
from opentelemetry.trace import set_span_in_context

from services.chassis.admission import Admission, Priority
from services.chassis.calls.answers import (
    TRACE_KEY,
    CallerCalls,
    Context,
    abort,
    limit_sending,
    write,
)
from services.chassis.calls.request_reader import RequestReader, lenient
from services.chassis.errors import InvalidArgumentError, ServiceError
from services.chassis.identity import CallContext, bind_call, caller_from, current_call
from services.chassis.mutual_tls import AllowedCallers, require_peer
from services.chassis.retries import pushback
from services.chassis.service_identity import TokenVerifier
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

# Services of gRPC itself: they have no caller, and their watch streams have no deadline. `health`
# has limits of its own; reflection is off by default.
EXEMPT_PREFIXES = ("/grpc.health.", "/grpc.reflection.")
INTERNAL_TEXT = "internal error"
# Checks the caller of `/package.Service/Method` and binds the caller's identity.
Authorize = Callable[[str, Context], Awaitable[None]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Interceptor for the unary and server-streaming methods of a service.

    Args:

        callers: the services that may call each method; None if `authorize` checks callers.
        authorize: by full name of the service: the check of its callers.
        batch: paths of the methods with the lowest priority in the queue.
        unlimited: paths of the methods without admission, because the work they start has its own.
        secure: callers have certificates.
        tokens: verifier of the callers' tokens; None: the identity in the metadata is
            accepted.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        admission: Admission,
        callers: AllowedCallers | None,
        *,
        authorize: Mapping[str, Authorize] = MappingProxyType({}),
        batch: Collection[str] = (),
        unlimited: Collection[str] = (),
        secure: bool,
        tokens: TokenVerifier | None = None,
    ) -> None:
        self._reader, self._authorize = RequestReader(settings.max_request_seconds), authorize
        self._max_rpc_seconds, self._write_seconds = (
            settings.max_rpc_seconds,
            settings.max_write_seconds,
        )
        self._admission, self._batch, self._unlimited = admission, batch, unlimited
        self._callers, self._secure, self._tokens = callers, secure, tokens
        self._caller_calls = CallerCalls(settings.max_caller_rpcs)
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
        deserializer = lenient(handler.request_deserializer)
        if handler.unary_unary:
            wrapped = grpc.stream_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary), deserializer, handler.response_serializer
            )
        else:
            wrapped = grpc.stream_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                deserializer,
                handler.response_serializer,
            )
        return self._handlers.setdefault(method, wrapped)

    def _unary(self, method: str, behaviour: Any) -> Any:
        name = name_of(method)

        async def call(_requests: object, context: Context) -> Any:
            async with self._call(method, context) as (request, _):
                response = await behaviour(request, context)
                self._caller_calls.hold(current_call().caller, response)
            limit_sending(name, self._write_seconds)
            return response

        return call

    def _stream(self, method: str, behaviour: Any) -> Any:
        name = name_of(method)

        async def call(_requests: object, context: Context) -> None:
            async with (
                self._call(method, context) as (request, answered),
                aclosing(behaviour(request, context)) as responses,
            ):
                async for response in responses:
                    # Before the write: the reader's pace is no load of this server.
                    answered()
                    await write(name, context, response, self._write_seconds)

        return call

    @asynccontextmanager
    async def _call(
        self, method: str, context: Context
    ) -> AsyncIterator[tuple[Any, Callable[[], None]]]:
        """Run a call in the block. Yields the request and a function for the first answer.

        A block that ends without an error counts as answered.
        """
        started, code = time.perf_counter(), grpc.StatusCode.OK
        metadata = context.invocation_metadata() or ()
        caller, request_id = caller_from(metadata)
        name, request = name_of(method), None
        labelled(RPCS_RUNNING, name).inc()
        span = tracer().start_span(method, context=extract(dict(metadata)))
        try:
            bind_call(
                CallContext(caller, request_id, self._deadline(context), set_span_in_context(span))
            )
            if found := trace_id():
                # Not in the initial metadata: after these gRPC clients do not retry a call.
                context.set_trailing_metadata(((TRACE_KEY, found),))
            signer = self._tokens.verify(method, caller, metadata) if self._tokens else ""
            bind_call(replace(current_call(), signer=signer))
            require_peer(self._callers, method, context, secure=self._secure, signer=signer)
            if authorize := self._authorize.get(method.split("/")[1]):
                await authorize(method, context)
            self._caller_calls.count(current_call().caller)
            request = await self._reader.read(context, current_call().caller)
            async with self._admitted(method) as answered:
                yield request, answered
        except ServiceError as error:
            code = error.code
            await abort(context, error, pushback(error, method, request, context))
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
            await abort(context, ServiceError(INTERNAL_TEXT), None)
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


def name_of(method: str) -> str:
    """Return the name of a method without its service, for logs and metrics."""
    return method.rsplit("/", 1)[-1]
