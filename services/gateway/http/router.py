"""HTTP routes with access rules from access.py. Routes without a rule are denied."""

import logging
import time
from collections.abc import Awaitable, Callable

from opentelemetry.propagate import extract
from opentelemetry.trace import set_span_in_context
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from services.chassis.errors import ServiceError
from services.chassis.identity import CallContext, bind_call, request_id_from
from services.chassis.telemetry import fields, trace_id, tracer
from services.gateway.access import ROUTES, authorize
from services.gateway.http.connection import ClientGoneError
from services.gateway.http.errors import error_response
from services.gateway.identity.authentication import Authenticator
from services.gateway.metrics import HTTP_REQUESTS, HTTP_SECONDS

log = logging.getLogger(__name__)

# nginx status of a disconnected client, visible in metrics only.
CLIENT_GONE_STATUS = 499
# The page sets the cookie with SameSite=Strict, only for the path of reports.
KEY_COOKIE = "tw_key"

Endpoint = Callable[[Request], Awaitable[Response]]


class ProtectedRoute(Route):
    """A route created by `Router`, always protected by its rule."""


class Router:
    """Creates routes with authentication, JSON errors, metrics, request id and trace span.

    The span of a stream ends when the stream begins.
    """

    def __init__(self, authenticator: Authenticator, max_seconds: float) -> None:
        self._authenticator, self._max_seconds = authenticator, max_seconds

    def route(self, name: str, endpoint: Endpoint) -> ProtectedRoute:
        """Return the route for an entry of the rule table, such as `GET /v1/models`."""
        method, _, path = name.partition(" ")
        rule = ROUTES.get(name)

        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            request_id = request_id_from(request.headers.get("x-request-id", ""))
            span = tracer().start_span(
                f"{request.method} {path}", context=extract(dict(request.headers))
            )
            try:
                values = request.headers.getlist("authorization")
                cookie = request.cookies.get(KEY_COOKIE, "")
                if rule and rule.cookie and not values and cookie:
                    values = [f"Bearer {cookie}"]
                credential = await authorize(
                    rule, values[0] if len(values) == 1 else "", self._authenticator
                )
                request.state.credential = credential
                deadline = time.monotonic() + self._max_seconds
                bind_call(
                    CallContext(credential.caller, request_id, deadline, set_span_in_context(span))
                )
                response = await endpoint(request)
            except ServiceError as error:
                response = error_response(error)
            except (ClientDisconnect, ClientGoneError):
                response = Response(status_code=CLIENT_GONE_STATUS)
            except Exception:
                # Last resort, as in the chassis. Unknown errors must not reach a caller.
                log.exception("request failed", extra=fields(route=path, request_id=request_id))
                response = error_response(ServiceError("internal error"))
            response.headers["x-request-id"] = request_id
            if found := trace_id():
                response.headers["x-trace-id"] = found
            response.headers.setdefault("cache-control", "no-store")
            HTTP_REQUESTS.labels(path, response.status_code).inc()
            HTTP_SECONDS.labels(path).observe(time.perf_counter() - started)
            span.set_attribute("http.response.status_code", response.status_code)
            span.end()
            return response

        return ProtectedRoute(path, answer, methods=[method])
