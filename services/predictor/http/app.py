"""The aiohttp applications: the inference port and the metrics port."""

from aiohttp import web

from services.predictor.http.access import AccessRules
from services.predictor.http.kserve import KServeRoutes, Readiness
from services.predictor.http.middleware import request_middleware
from services.predictor.http.openai import OpenAIRoutes
from services.predictor.metrics import METRICS_TYPE, Metrics
from services.predictor.repository import Repository
from services.predictor.version import Version


def build_app(
    repository: Repository[Version],
    readiness: Readiness,
    metrics: Metrics,
    access: AccessRules,
    default_max_tokens: int,
    max_body_bytes: int,
) -> web.Application:
    """Build the application of the inference port with all routes."""
    middleware = request_middleware(access, max_body_bytes, metrics.requests)
    app = web.Application(client_max_size=max_body_bytes, middlewares=[middleware])
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
