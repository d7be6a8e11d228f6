"""The HTTP application: all routes, the page's files, and security headers."""

from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.chassis.errors import InvalidArgumentError, NotFoundError
from services.gateway.http.errors import MethodNotAllowedError, error_response
from services.gateway.http.router import ProtectedRoute, Router

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
        public.append(Mount("/", StaticFiles(directory=page_directory, html=True), name="page"))
    return Starlette(
        routes=[*routes, *public],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: _http_error},
    )


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
