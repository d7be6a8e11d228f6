"""The aiohttp applications of the vLLM server: the inference port and the metrics port."""

import asyncio

from aiohttp import web

from infra.run.vllm_server.forwarding import ForwardedRoutes
from infra.run.vllm_server.metrics import Metrics
from infra.run.vllm_server.version import VllmVersion
from services.predictor.http.access import AccessRules
from services.predictor.http.kserve import KServeRoutes, Readiness
from services.predictor.http.middleware import request_middleware
from services.predictor.metrics import METRICS_TYPE
from services.predictor.repository import Repository


def build_app(
    versions: Repository[VllmVersion],
    forwarded: ForwardedRoutes,
    readiness: Readiness,
    metrics: Metrics,
    access: AccessRules,
    max_body_bytes: int,
) -> web.Application:
    """Build the application of the inference port with all routes."""
    middleware = request_middleware(access, max_body_bytes, metrics.requests)
    app = web.Application(client_max_size=max_body_bytes, middlewares=[middleware])
    app.add_routes(forwarded.routes())
    app.add_routes(KServeRoutes(versions, readiness).routes())
    return app


def build_metrics_app(versions: Repository[VllmVersion], metrics: Metrics) -> web.Application:
    """Build the application of the metrics port, with the metrics of all vLLM processes."""

    async def render_metrics(request: web.Request) -> web.Response:
        ready = versions.ready()
        pages = await asyncio.gather(*(version.process.metrics() for version in ready))
        page = metrics.render([version.name for version in ready], pages)
        return web.Response(body=page, headers={"Content-Type": METRICS_TYPE})

    app = web.Application()
    app.add_routes([web.get("/metrics", render_metrics)])
    return app
