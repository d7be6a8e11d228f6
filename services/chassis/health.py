"""Health of a server: grpc.health.v1 with bounded memory, and /health for probes of Kubernetes.

A client without a key may call Check on a public port. Each call therefore has a deadline for its
request and for its answer, the number of unfinished calls is limited, and no name of a request is
retained. Watch is for
the channels of other services (`healthCheckConfig`). The servicer of grpcio-health-checking is not
used: docs/decisions/health.md.
"""

import asyncio
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import grpc
from grpc_health.v1 import health_pb2

from services.chassis.calls.answers import (
    Context,
    Task,
    abort,
    end_call,
    limit_sending,
    running_handler,
    write,
)
from services.chassis.calls.request_reader import RequestReader, lenient
from services.chassis.errors import NotFoundError, ResourceExhaustedError, ServiceError
from services.chassis.settings import ServiceSettings

SERVICE_NAME = "grpc.health.v1.Health"
# Unfinished calls of Check. An honest call takes about a millisecond, so the oldest call above the
# limit is one whose client sends no request or reads no response.
MAX_CHECKS, MAX_CONNECTION_CHECKS = 64, 4
REQUEST_SECONDS = 5.0
# Longest delay of the event loop that counts as healthy, less than the timeout of the probes.
LOOP_SECONDS = 3.0

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthServicer:
    """Check and Watch for the registered names. All names have the same status.

    Each watcher has an event of its own, so that a watcher that leaves or does not read affects no
    other watcher. `drain` and `close` set events only and never wait for a peer.
    """

    def __init__(self, names: Iterable[str], settings: ServiceSettings) -> None:
        self._names = {"", *names}
        self._longest_name = max(map(len, self._names))
        self._max_watchers, self._write_seconds = (
            settings.max_health_watchers,
            settings.max_write_seconds,
        )
        self._status = NOT_SERVING
        self._closed = False
        self._reader = RequestReader(REQUEST_SECONDS)
        self._watchers: set[asyncio.Event] = set()
        # Unfinished calls of Check with their connections, the oldest first.
        self._checks: dict[Task, str] = {}

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handlers of the service. Without watchers, Watch is UNIMPLEMENTED."""
        request = lenient(health_pb2.HealthCheckRequest.FromString)
        response = health_pb2.HealthCheckResponse.SerializeToString
        # Handlers of streams: they start before the request has arrived, so that they can limit the
        # wait for the request.
        methods = {"Check": grpc.stream_unary_rpc_method_handler(self._check, request, response)}
        if self._max_watchers:
            methods["Watch"] = grpc.stream_stream_rpc_method_handler(self._watch, request, response)
        return grpc.method_handlers_generic_handler(SERVICE_NAME, methods)

    def serve(self) -> None:
        """Report SERVING from now on."""
        self._set(SERVING)

    def drain(self) -> None:
        """Report NOT_SERVING from now on, to all watchers."""
        self._set(NOT_SERVING)

    def close(self) -> None:
        """End the streams of all watchers."""
        self._closed = True
        self._set(NOT_SERVING)

    def _set(self, status: int) -> None:
        self._status = status
        for changed in self._watchers:
            changed.set()

    async def _check(self, _requests: object, context: Context) -> health_pb2.HealthCheckResponse:
        connection, handler = context.peer(), running_handler()
        try:
            if list(self._checks.values()).count(connection) >= MAX_CONNECTION_CHECKS:
                raise _exhausted("health checks of this connection", MAX_CONNECTION_CHECKS)
            if len(self._checks) >= MAX_CHECKS:
                oldest = next(iter(self._checks))
                del self._checks[oldest]
                end_call(oldest)
            self._checks[handler] = connection
            handler.add_done_callback(lambda ended: self._checks.pop(ended, None))
            await self._receive_name(context)
        except ServiceError as error:
            await abort(context, error)
        limit_sending("Check", self._write_seconds)
        return health_pb2.HealthCheckResponse(status=self._status)

    async def _watch(self, _requests: object, context: Context) -> None:
        changed = asyncio.Event()
        try:
            if len(self._watchers) >= self._max_watchers:
                raise _exhausted("health watchers", self._max_watchers)
            self._watchers.add(changed)
            await self._receive_name(context)
            sent = None
            while not self._closed:
                if sent == self._status:
                    await changed.wait()
                    changed.clear()
                    continue
                sent = self._status
                status = health_pb2.HealthCheckResponse(status=sent)
                await write("Watch", context, status, self._write_seconds)
        except ServiceError as error:
            await abort(context, error)
        finally:
            self._watchers.discard(changed)

    async def _receive_name(self, context: Context) -> None:
        """Receive the request and check its name. The name itself is not kept.

        Raises:
            NotFoundError: the name is not in the list.
            ServiceError: as `RequestReader.read`.
        """
        request = await self._reader.read(context)
        if len(request.service) > self._longest_name or request.service not in self._names:
            raise NotFoundError("the service is not known", field="service")


def _exhausted(things: str, limit: int) -> ResourceExhaustedError:
    return ResourceExhaustedError(
        f"too many unfinished {things}", reason="TOO_MANY_HEALTH_CALLS", limit=f"{limit} at once"
    )


class HttpHealth:
    """GET /health: 200 while the service accepts calls, otherwise 503.

    Probes use the metrics port, because clients without a key can occupy all connections of a
    public port. The answer is computed in the event loop, so that a service whose event loop hangs
    is not healthy.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_serving = False
        self._loop = loop

    def around(self, metrics: WSGIApplication) -> WSGIApplication:
        """Return an application with /health in front of `metrics`."""

        def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] != "/health":
                return metrics(environ, start_response)
            answer = asyncio.run_coroutine_threadsafe(self._answer(), self._loop)
            try:
                status = answer.result(LOOP_SECONDS)
            except TimeoutError:
                answer.cancel()
                status = "503 Service Unavailable"
            start_response(status, [("content-type", "text/plain")])
            return [status.encode() + b"\n"]

        return application

    async def _answer(self) -> str:
        return "200 OK" if self.is_serving else "503 Service Unavailable"
