"""The aiohttp applications: the inference port and the metrics port.

A middleware of the inference port checks access, counts requests and writes error bodies.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from services.predictor.errors import InvalidRequestError, PredictorError
from services.predictor.http.access import AccessRules
from services.predictor.http.kserve import KServeRoutes, Readiness
from services.predictor.http.openai import OpenAIRoutes
from services.predictor.http.replies import STATUS, VERSION, error_body
from services.predictor.metrics import Metrics
from services.predictor.repository import Repository

log = logging.getLogger(__name__)
CLIENT_CLOSED_REQUEST = 499  # as in nginx
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def build_app(
    repository: Repository,
    readiness: Readiness,
    metrics: Metrics,
    access: AccessRules,
    default_max_tokens: int,
    max_body_bytes: int,
) -> web.Application:
    """Build the application of the inference port with all routes."""
    app = web.Application(
        client_max_size=max_body_bytes, middlewares=[_middleware(metrics, access, max_body_bytes)]
    )
    app.add_routes(OpenAIRoutes(repository, default_max_tokens).routes())
    app.add_routes(KServeRoutes(repository, readiness).routes())
    return app


def build_metrics_app(metrics: Metrics) -> web.Application:
    """Build the application of the metrics port.

    Separate port: network policies can permit metrics without inference.
    """

    async def render_metrics(request: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": METRICS_TYPE})

    app = web.Application()
    app.add_routes([web.get("/metrics", render_metrics)])
    return app


def _middleware(metrics: Metrics, access: AccessRules, max_body_bytes: int) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            access.check(request)
            response = await handler(request)
        except (asyncio.CancelledError, ConnectionResetError):
            _count(metrics, request, CLIENT_CLOSED_REQUEST)
            raise
        # Only fixed texts of the predictor's own errors are returned.
        except PredictorError as error:
            response = _error_response(request, error, error.status)
        except web.HTTPRequestEntityTooLarge:
            too_large = InvalidRequestError(
                f"the body must have at most {max_body_bytes} bytes",
                field="body",
                reason="TOO_LARGE",
                limit=f"{max_body_bytes} bytes",
            )
            response = _error_response(request, too_large, 413)
        except web.HTTPException as error:
            unknown = InvalidRequestError(f"{error.reason}: see /v1/models")
            response = _error_response(request, unknown, error.status)
        except Exception as error:  # unknown errors become a fixed text
            log.error(
                "request failed", extra={"fields": {"error": type(error).__name__}}, exc_info=error
            )
            internal = PredictorError("internal error of the predictor, see its log")
            response = _error_response(request, internal, 500)
        _count(metrics, request, request.get(STATUS, response.status))
        return response

    return answer


def _error_response(request: web.Request, error: PredictorError, status: int) -> web.Response:
    body: dict[str, Any] = (
        {"error": error.text} if request.path.startswith("/v2/") else error_body(error, status)
    )
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return web.json_response(body, status=status, headers=headers)


def _count(metrics: Metrics, request: web.Request, status: int) -> None:
    resource = request.match_info.route.resource
    endpoint = resource.canonical if resource is not None else "unknown"
    metrics.requests.labels(endpoint, request.get(VERSION, ""), status).inc()
