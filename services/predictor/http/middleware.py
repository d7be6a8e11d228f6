"""Middleware of a model server: access, error bodies, and the status of requests for metrics."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import Counter

from services.predictor.errors import InvalidRequestError, PredictorError, error_body
from services.predictor.http.access import AccessRules

log = logging.getLogger(__name__)
# Request keys through which handlers pass metric labels to the middleware. The version is
# set only for a loaded version, so that a caller's text never becomes a label.
VERSION = web.RequestKey("version", str)
# Status of a stream that failed after its 200 was sent.
STATUS = web.RequestKey("status", int)
CLIENT_CLOSED_REQUEST = 499  # as in nginx

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def request_middleware(access: AccessRules, max_body_bytes: int, requests: Counter) -> Middleware:
    """Return the middleware that checks access and translates errors.

    Args:
        requests: counts requests by endpoint, version and final status.
    """

    def count(request: web.Request, status: int) -> None:
        resource = request.match_info.route.resource
        endpoint = resource.canonical if resource is not None else "unknown"
        requests.labels(endpoint, request.get(VERSION, ""), status).inc()

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            access.check(request)
            response = await handler(request)
        except (asyncio.CancelledError, ConnectionResetError):
            count(request, CLIENT_CLOSED_REQUEST)
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
            internal = PredictorError("internal error of the model server, see its log")
            response = _error_response(request, internal, 500)
        count(request, request.get(STATUS, response.status))
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
