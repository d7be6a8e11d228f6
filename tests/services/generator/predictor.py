"""A hand-made model server on the real contract: KServe's repository extension and streamed chat completions.

It answers with the words of `script`, `pace_seconds` apart, and remembers what it was asked and which answers were aborted.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class FakePredictor:
    script: list[str] = field(default_factory=lambda: ["Hello", " there", "."])
    finish_reason: str = "stop"
    pace_seconds: float = 0.0
    load_seconds: float = 0.0
    broken: dict[str, str] = field(default_factory=dict)
    refusal: tuple[int, dict[str, Any]] | None = None
    silent_after: int | None = None
    cut_after: int | None = None
    error_after: int | None = None
    states: dict[str, str] = field(default_factory=dict)
    directories: dict[str, str] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    aborted: int = 0
    running: int = 0
    abort: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v2/repository/index", self.index)
        app.router.add_post("/v2/repository/models/{version}/load", self.load)
        app.router.add_post("/v2/repository/models/{version}/unload", self.unload)
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    async def index(self, request: web.Request) -> web.Response:
        return web.json_response([{"name": name, "state": state, "reason": ""} for name, state in self.states.items()])

    async def load(self, request: web.Request) -> web.Response:
        version = request.match_info["version"]
        self.loads.append(version)
        self.states[version] = "LOADING"
        await asyncio.sleep(self.load_seconds)
        if version in self.broken:
            self.states[version] = "UNAVAILABLE"
            return web.json_response({"error": self.broken[version]}, status=400)
        self.directories[version] = (await request.json())["parameters"]["directory"]
        self.states[version] = "READY"
        return web.json_response({"name": version, "state": "READY"})

    async def unload(self, request: web.Request) -> web.Response:
        version = request.match_info["version"]
        self.unloads.append(version)
        if self.states.pop(version, None) is None:
            return web.json_response({"error": "no such version is loaded"}, status=404)
        return web.json_response({"name": version, "state": "UNAVAILABLE"})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        if self.refusal is not None:
            status, content = self.refusal
            return web.json_response(content, status=status, headers={"Retry-After": "3"})
        if self.states.get(body["model"]) != "READY":
            return web.json_response({"error": {"message": "no such version", "param": "model"}}, status=404)
        self.running += 1
        try:
            return await self._stream(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted += 1
            self.abort.set()
            raise
        finally:
            self.running -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_event({"role": "assistant", "content": ""}, None))
        for number, word in enumerate(self.script):
            if number == self.silent_after:
                await asyncio.sleep(3600)
            if number == self.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            if number == self.error_after:
                await response.write(b'data: {"error": {"message": "the engine broke"}}\n\n')
                return response
            await response.write(_event({"content": word}, None))
            await asyncio.sleep(self.pace_seconds)
        await response.write(_event({}, self.finish_reason))
        usage = {"prompt_tokens": 7, "completion_tokens": len(self.script), "total_tokens": 0}
        await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(delta: dict[str, str], finish_reason: str | None) -> bytes:
    body = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


@asynccontextmanager
async def predictor_server(predictor: FakePredictor, port: int = 0) -> AsyncIterator[int]:
    """Serves on loopback; a second one on the same port is a restarted process."""
    runner = web.AppRunner(predictor.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    try:
        assert runner.addresses
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()
