"""Health of a server: grpc.health.v1 with bounded memory, and /health for probes of Kubernetes.

A client without a key may call Check on a public port. Each call therefore has a deadline for its
request, there are limits on unfinished calls, and no name of a request is retained. Watch is for
the channels of other services (`healthCheckConfig`). The servicer of grpcio-health-checking is not
used: docs/decisions/health.md.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import grpc
from grpc_health.v1 import health_pb2

from services.chassis.errors import NotFoundError, ResourceExhaustedError, ServiceError
from services.chassis.interceptor import abort, write
from services.chassis.request_reader import RequestReader, lenient
from services.chassis.settings import ServiceSettings

SERVICE_NAME = "grpc.health.v1.Health"
# Unfinished calls of Check. An honest call takes about a millisecond; a call whose client sends no
# request or reads no response counts until its connection ends.
MAX_CHECKS, MAX_CONNECTION_CHECKS = 64, 4
REQUEST_SECONDS = 5.0
# Longest delay of the event loop that counts as healthy, less than the timeout of the probes.
LOOP_SECONDS = 3.0

Context = grpc.aio.ServicerContext[Any, Any]
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
        # By connection: unfinished calls of Check.
        self._checks: Counter[str] = Counter()

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

    async def _check(
        self, _requests: object, context: Context
    ) -> health_pb2.HealthCheckResponse | None:
        connection = context.peer()
        try:
            unfinished = self._checks[connection]
            # The first check of a connection is always made.
            if unfinished and self._checks.total() >= MAX_CHECKS:
                raise _exhausted("health checks", MAX_CHECKS)
            if unfinished >= MAX_CONNECTION_CHECKS:
                raise _exhausted("health checks of this connection", MAX_CONNECTION_CHECKS)
            self._checks[connection] += 1
            # Called when the response is written, not when this function returns.
            context.add_done_callback(lambda _: self._forget(connection))  # type: ignore[arg-type]
            await self._receive_name(context)
        except ServiceError as error:
            await abort(context, error)
            return None
        return health_pb2.HealthCheckResponse(status=self._status)

    def _forget(self, connection: str) -> None:
        self._checks[connection] -= 1
        self._checks += Counter()  # removes zeros

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
                await write(
                    context, health_pb2.HealthCheckResponse(status=sent), self._write_seconds
                )
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
