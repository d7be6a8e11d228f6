"""KServe's V2 endpoints: health, and the repository extension.

Error bodies are {"error": text}, as defined by the protocol.
"""

from dataclasses import asdict
from pathlib import Path

from aiohttp import web

from services.predictor.http.schemas import IndexRequest, LoadRequest, UnloadRequest, parse_body
from services.predictor.repository import LoadedVersion, Repository
from services.predictor.repository_entry import State


class Readiness:
    """Readiness of the process, set at the end of the start and at shutdown."""

    def __init__(self) -> None:
        self.ready = False


class KServeRoutes:
    """Handlers of KServe's V2 endpoints."""

    def __init__(self, repository: Repository[LoadedVersion], readiness: Readiness) -> None:
        self._repository = repository
        self._readiness = readiness

    def routes(self) -> list[web.RouteDef]:
        """Return the routes with their handlers."""
        return [
            web.get("/health", self.live),
            web.get("/v2/health/live", self.live),
            web.get("/v2/health/ready", self.ready),
            web.get("/v2/models/{version}/ready", self.version_ready),
            web.post("/v2/repository/index", self.index),
            web.post("/v2/repository/models/{version}/load", self.load),
            web.post("/v2/repository/models/{version}/unload", self.unload),
        ]

    async def live(self, request: web.Request) -> web.Response:
        """Report live until a version fails; a supervisor then restarts the process."""
        failed = self._repository.has_failed_version()
        return web.json_response({"live": not failed}, status=503 if failed else 200)

    async def ready(self, request: web.Request) -> web.Response:
        """Report ready from the end of the start until shutdown begins."""
        ready = self._readiness.ready
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def version_ready(self, request: web.Request) -> web.Response:
        """Report if a version can answer: 200, 503 while it cannot, 404 if not loaded."""
        version = self._repository.get(request.match_info["version"])
        return web.json_response({"name": version.name, "ready": True})

    async def index(self, request: web.Request) -> web.Response:
        """Return all versions with state and reason."""
        body = await parse_body(request, IndexRequest, empty_is_default=True)
        entries = [
            entry
            for entry in self._repository.index()
            if entry.state is State.READY or not body.ready
        ]
        return web.json_response(
            [{**asdict(entry), "directory": str(entry.directory)} for entry in entries]
        )

    async def load(self, request: web.Request) -> web.Response:
        """Load a version and respond when the version is ready."""
        body = await parse_body(request, LoadRequest)
        name = request.match_info["version"]
        await self._repository.load(name, Path(body.parameters.directory))
        return web.json_response({"name": name, "state": State.READY})

    async def unload(self, request: web.Request) -> web.Response:
        """Unload a version and respond when its streams have ended and its memory is free.

        With `only_idle`, respond 409 if answers run on the version.
        """
        body = await parse_body(request, UnloadRequest, empty_is_default=True)
        name = request.match_info["version"]
        await self._repository.unload(name, only_idle=body.parameters.only_idle)
        return web.json_response({"name": name, "state": State.UNAVAILABLE})
