"""The HTTP application: routes with access rules, the page's files, and security headers.

The rules are in access.py. Routes without a rule are denied.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from opentelemetry.propagate import extract
from opentelemetry.trace import set_span_in_context
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.chassis.calls.request_reader import ReceiveSlotsByCaller
from services.chassis.errors import InvalidArgumentError, NotFoundError, ServiceError
from services.chassis.identity import CallContext, bind_call, request_id_from
from services.chassis.telemetry import fields, trace_id, tracer
from services.contracts.limits import field_error
from services.gateway.access import ROUTES, Rule, authorize
from services.gateway.http.connection import ClientGoneError
from services.gateway.http.errors import MethodNotAllowedError, error_response
from services.gateway.http.session import PageSessions
from services.gateway.identity.authentication import Authenticator
from services.gateway.identity.credential import Credential
from services.gateway.identity.end_users import END_USER_KEY, EndUsers
from services.gateway.metrics import HTTP_REQUESTS, HTTP_SECONDS
from services.gateway.quotas.quota import Limit
from services.gateway.quotas.quotas import Quotas

log = logging.getLogger(__name__)

# nginx status of a disconnected client, visible in metrics only.
CLIENT_GONE_STATUS = 499
# Requests of one user whose bodies wait for 32 others that are incomplete. The body of a complete
# request has arrived when its turn comes, so that it does not wait.
MAX_WAITING_BODIES = 256
# Paths of this project's own API.
OWN_PATHS = "/api/"
# Query parameters of lists in pages.
PAGE_QUERY = ("page_size", "page_token")
QUERY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

Endpoint = Callable[[Request], Awaitable[Response]]


class ProtectedRoute(Route):
    """A route created by `Router`, always protected by its rule."""


class Router:
    """Creates routes with authentication, JSON errors, metrics, request id and trace span.

    The span of a stream ends when the stream begins.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        sessions: PageSessions,
        end_users: EndUsers,
        quotas: Quotas,
        max_seconds: float,
    ) -> None:
        self._authenticator, self._sessions = authenticator, sessions
        self._end_users, self._quotas, self._max_seconds = end_users, quotas, max_seconds
        self._receive_slots = ReceiveSlotsByCaller(MAX_WAITING_BODIES)

    def route(
        self,
        name: str,
        endpoint: Endpoint,
        *,
        is_proto_json: bool = False,
        query: Collection[str] = (),
    ) -> ProtectedRoute:
        """Return the route for an entry of the rule table, such as `GET /v1/models`.

        Args:
            name: method and path.
            endpoint: answers the request.
            is_proto_json: the body is a message in protobuf's JSON format. Errors then name its
                fields as in JSON; parameters of path and query have the names of the URL.
            query: names of the query parameters. Others are refused, except on paths of other
                APIs, such as /v1, whose clients may send more.
        """
        method, _, path = name.partition(" ")
        rule = ROUTES.get(name)

        async def answer(request: Request) -> Response:
            started = time.perf_counter()
            request_id = request_id_from(request.headers.get("x-request-id", ""))
            span = tracer().start_span(
                f"{request.method} {path}", context=extract(dict(request.headers))
            )
            try:
                credential = await authorize(rule, partial(self._authenticate, rule, request))
                names = request.headers.getlist(END_USER_KEY)
                caller = self._end_users.named_in_metadata(credential, names)
                credential = replace(credential, caller=caller)
                request.state.credential = credential
                request.state.receive_slot = self._receive_slots.of(caller)
                if caller.user:
                    await self._quotas.count(caller, Limit.CALLS)
                deadline = time.monotonic() + self._max_seconds
                bind_call(
                    CallContext(credential.caller, request_id, deadline, set_span_in_context(span))
                )
                if path.startswith(OWN_PATHS):
                    check_query(request, query)
                response = await endpoint(request)
            except ServiceError as error:
                is_of_url = error.field in {*request.path_params, *request.query_params}
                response = error_response(error, is_proto_json=is_proto_json and not is_of_url)
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

    async def _authenticate(self, rule: Rule | None, request: Request) -> Credential:
        values = request.headers.getlist("authorization")
        if rule and rule.session and not values and self._sessions.cookie(request):
            return await self._sessions.authenticate(request)
        return await self._authenticator.authenticate(values[0] if len(values) == 1 else "")


def check_query(request: Request, known: Collection[str]) -> None:
    """Check that a request has only known query parameters, each once.

    Raises:
        InvalidArgumentError: A parameter is unknown or repeated; names it and the known ones.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            # Only a name that could be one is repeated in the error.
            shown = name if QUERY_NAME.fullmatch(name) else "query"
            allowed = ", ".join(sorted(known)) or "no query parameters"
            raise field_error(shown, allowed)
        if names.count(name) > 1:
            raise field_error(name, "one value")


PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        # The loop's report is shown inside the page and has its own styles.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)


def make_app(
    router: Router,
    routes: Sequence[ProtectedRoute],
    page_directory: Path | None,
    *,
    with_metrics: bool,
) -> Starlette:
    """Return the application. `with_metrics` adds a public /metrics."""
    public: list[BaseRoute] = [router.route("GET /health", _health)]
    if with_metrics:
        public.append(router.route("GET /metrics", _metrics))
    if page_directory:
        public.append(Mount("/", PageFiles(page_directory, routes), name="page"))
    return Starlette(
        routes=[*routes, *public],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: _http_error},
    )


class PageFiles(StaticFiles):
    """Files of the page, mounted over all paths; 405 for a route's path with another method."""

    def __init__(self, directory: Path, routes: Sequence[ProtectedRoute]) -> None:
        super().__init__(directory=directory, html=True)
        self._routes = routes

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file of the page, or an error."""
        if any(route.matches(scope)[0] is Match.PARTIAL for route in self._routes):
            raise HTTPException(405)
        return await super().get_response(path, scope)


class SecurityHeaders:
    """Adds security headers to every response, including files and errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("content-security-policy", PAGE_POLICY)
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "no-referrer"
                headers["cross-origin-resource-policy"] = "same-origin"
                headers.setdefault("cross-origin-opener-policy", "same-origin")
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _metrics(request: Request) -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return error_response(NotFoundError("no resource exists at this path"))
    if status == 405:
        return error_response(
            MethodNotAllowedError("the path does not support this method", field="method")
        )
    return error_response(InvalidArgumentError("the request is malformed", field="request"))
