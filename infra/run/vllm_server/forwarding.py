"""Forwarding of requests to the vLLM process of their model.

Bodies are passed on unchanged and are never logged. A disconnect of the client cancels the handler,
which closes the connection to vLLM; vLLM then ends the generation.
"""

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp import web

from infra.run.vllm_server.version import VllmVersion
from services.predictor.errors import InvalidRequestError, UnavailableError, error_body
from services.predictor.http.access import JSON_TYPE
from services.predictor.http.middleware import STATUS, VERSION
from services.predictor.repository import Repository

STREAM_TYPE = "text/event-stream"
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
# Headers of the caller that vLLM reads: the trace of the call, and the name of the request.
PASSED_HEADERS = ("traceparent", "tracestate", "X-Request-Id")


class ForwardedRoutes:
    """Handlers of OpenAI's paths and of vLLM's paths for tokens.

    Args:
        http: session without a limit of connections or of the time for a response.
    """

    def __init__(self, versions: Repository[VllmVersion], http: aiohttp.ClientSession) -> None:
        self._versions = versions
        self._http = http

    def routes(self) -> list[web.RouteDef]:
        """Return the routes with their handlers."""
        return [
            web.get("/v1/models", self.models),
            web.post("/v1/{path:[a-z][a-z/]*}", self.forward),
            web.post("/tokenize", self.forward),
            web.post("/detokenize", self.forward),
            web.get("/tokenizer_info", self.tokenizer_info),
        ]

    async def models(self, request: web.Request) -> web.Response:
        """Return the versions that can answer, oldest first, as vLLM describes them."""
        cards = [
            {**version.process.card, "created": version.created}
            for version in self._versions.ready()
        ]
        return web.json_response({"object": "list", "data": cards})

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Forward a request with a JSON body to the version of its field `model`."""
        body = await request.read()
        return await self._send(request, _model_of(body), body)

    async def tokenizer_info(self, request: web.Request) -> web.StreamResponse:
        """Forward the request to the version of the query `model`."""
        return await self._send(request, request.query.get("model"), None)

    async def _send(
        self, request: web.Request, name: str | None, body: bytes | None
    ) -> web.StreamResponse:
        version = self._versions.get(name)
        request[VERSION] = version.name
        headers = {
            name: value
            for name in PASSED_HEADERS
            if (value := request.headers.get(name)) is not None
        }
        if body is not None:
            headers["Content-Type"] = JSON_TYPE
        url = f"{version.process.vllm.url}{request.path}"
        try:
            with version.answering():
                async with self._http.request(
                    request.method, url, data=body, headers=headers | version.process.headers
                ) as reply:
                    if reply.content_type == STREAM_TYPE:
                        return await self._stream(request, reply)
                    return web.Response(
                        body=await reply.read(), status=reply.status, headers=_passed(reply.headers)
                    )
        except aiohttp.ClientError as error:
            raise UnavailableError(
                "the vLLM of this version did not answer", "model", reason="LOST"
            ) from error

    async def _stream(
        self, request: web.Request, reply: aiohttp.ClientResponse
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            status=reply.status, headers=STREAM_HEADERS | _passed(reply.headers)
        )
        await response.prepare(request)
        try:
            async for part in reply.content.iter_any():
                await response.write(part)
        except aiohttp.ClientError:
            # The response has status 200 already; the metrics count the real one.
            lost = UnavailableError("the vLLM of this version ended", "model", reason="LOST")
            request[STATUS] = lost.status
            event = json.dumps(error_body(lost, lost.status))
            # After an interrupted line.
            await response.write(f"\n\ndata: {event}\n\n".encode())
        await response.write_eof()
        return response


def _model_of(body: bytes) -> str | None:
    """Return the field `model`, or None if it is missing.

    Raises:
        InvalidRequestError: the body is not a JSON object, or `model` is no text.
    """
    try:
        content: Any = json.loads(body)
    except ValueError as error:
        raise InvalidRequestError(
            "the body must be valid JSON", field="body", reason="MALFORMED", limit="JSON"
        ) from error
    if not isinstance(content, dict):
        raise InvalidRequestError(
            "the body must be a JSON object",
            field="body",
            reason="MALFORMED",
            limit="a JSON object",
        )
    name = content.get("model")
    if name is not None and not isinstance(name, str):
        raise InvalidRequestError(
            "model: must be a text", "model", reason="MALFORMED", limit="text"
        )
    return name


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in ("Content-Type", "Retry-After") if name in headers}


def open_session() -> aiohttp.ClientSession:
    """Return a session for `ForwardedRoutes`: answers take any time, connecting does not."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
    )
