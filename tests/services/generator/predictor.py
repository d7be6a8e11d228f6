"""Fake model server with KServe's repository extension and streamed chat completions.

The server answers with the words of `script`, `pace_seconds` apart, and records requests and
aborted answers. Like the predictor, concurrent loads of one version are joined, and `only_idle`
unloads of a version in use are rejected. As a process (`python -m
tests.services.generator.predictor JSON PORT`), the server takes its fields as JSON, prints its
port, and returns `Counters` over HTTP.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

# Parts of a line without an end, 32 MiB in total.
ENDLESS_PART, ENDLESS_PARTS = b"x" * 65_536, 512


@dataclass
class Counters:
    """Counts of completed `loads` and `unloads`, and of `joined` and `refused` requests."""

    loads: list[str] = field(default_factory=list)
    joined: list[str] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    running: int = 0
    # time.monotonic(), shared by all processes of the machine
    aborted_at: list[float] = field(default_factory=list)
    words: int = 0


@dataclass
class FakePredictor:
    script: list[str] = field(default_factory=lambda: ["Hello", " there", "."])
    scripts: dict[str, list[str]] = field(default_factory=dict)
    # Token fields of the first words of `script`.
    token_fields: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str = "stop"
    pace_seconds: float = 0.0
    load_seconds: float = 0.0
    broken: dict[str, str] = field(default_factory=dict)
    refusal: tuple[int, dict[str, Any]] | None = None
    # Number of requests that get the refusal; None: all.
    refusals: int | None = None
    refused_versions: set[str] = field(default_factory=set)
    delays: dict[str, float] = field(default_factory=dict)
    silent_after: int | None = None
    cut_after: int | None = None
    error_after: int | None = None
    endless_after: int | None = None
    # Bytes after the first event instead of words and end; the last ones repeat if endless.
    raw: list[bytes] | None = None
    raw_is_endless: bool = False
    reports_usage: bool = True
    retry_after: str = "3"
    key: str = ""
    # Ids by text for /tokenize; None: no such path.
    tokens: dict[str, list[int]] | None = None
    # Adapters that the server reads at their first request, with the status of that request.
    adapters: dict[str, int] = field(default_factory=dict)
    models_answer: bool = True
    models_hang: bool = False
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    left_unanswered: asyncio.Event = field(default_factory=asyncio.Event)
    states: dict[str, str] = field(default_factory=dict)
    directories: dict[str, str] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    abort: asyncio.Event = field(default_factory=asyncio.Event)
    in_use: Counter[str] = field(default_factory=Counter)
    loading: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=16 * 1024 * 1024, middlewares=[self._require_key])
        app.router.add_post("/v2/repository/index", self.index)
        app.router.add_post("/v2/repository/models/{version}/load", self.load)
        app.router.add_post("/v2/repository/models/{version}/unload", self.unload)
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/counters", self.counters_json)
        return app

    @web.middleware
    async def _require_key(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return await handler(request)

    async def counters_json(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self.counters))

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        status = self.adapters.get(body["model"])
        if status == 200:
            self.states[body["model"]] = "READY"
            return web.json_response({"tokens": [1]})
        if status is not None:
            return web.json_response({"error": {}}, status=status)
        if self.tokens is None or body["add_special_tokens"]:
            return web.json_response({"error": "Not Found"}, status=404)
        return web.json_response({"tokens": self.tokens[body["prompt"]]})

    async def models(self, request: web.Request) -> web.Response:
        if self.models_hang:
            await asyncio.sleep(3600)
        if not self.models_answer:
            return web.json_response({"error": "loading"}, status=503)
        return web.json_response(
            {"data": [{"id": name} for name, state in self.states.items() if state == "READY"]}
        )

    async def index(self, request: web.Request) -> web.Response:
        if self.hanging.is_set():
            self.left_unanswered.set()
            await asyncio.sleep(3600)
        return web.json_response(
            [{"name": name, "state": state, "reason": ""} for name, state in self.states.items()]
        )

    async def load(self, request: web.Request) -> web.Response:
        version = request.match_info["version"]
        if self.states.get(version) != "READY":
            if version in self.loading:
                self.counters.joined.append(version)
            else:
                directory = (await request.json())["parameters"]["directory"]
                self.loading[version] = asyncio.create_task(self._load(version, directory))
            # Shielded, since other requests may have joined this load.
            await asyncio.shield(self.loading[version])
        if version in self.broken:
            return web.json_response({"error": self.broken[version]}, status=400)
        return web.json_response({"name": version, "state": "READY"})

    async def _load(self, version: str, directory: str) -> None:
        self.counters.loads.append(version)
        self.states[version] = "LOADING"
        await asyncio.sleep(self.load_seconds)
        self.directories[version] = directory
        self.states[version] = "UNAVAILABLE" if version in self.broken else "READY"
        del self.loading[version]

    async def unload(self, request: web.Request) -> web.Response:
        version = request.match_info["version"]
        if version in self.loading:
            await asyncio.shield(self.loading[version])
        if (await request.json())["parameters"]["only_idle"] and self.in_use[version]:
            self.counters.refused.append(version)
            return web.json_response({"error": "answers run on this version"}, status=409)
        if self.states.pop(version, None) is None:
            return web.json_response({"error": "no such version is loaded"}, status=404)
        self.counters.unloads.append(version)
        return web.json_response({"name": version, "state": "UNAVAILABLE"})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(request.headers)
        is_refused = self.refusals is None or len(self.requests) <= self.refusals
        if self.refusal is not None and is_refused:
            status, content = self.refusal
            return web.json_response(
                content,
                status=status,
                headers={"Retry-After": self.retry_after, "Location": "/elsewhere"},
            )
        if body["model"] in self.refused_versions:
            return web.json_response({"error": {}}, status=500)
        if self.states.get(body["model"]) != "READY":
            return web.json_response(
                {"error": {"message": "no such version", "param": "model"}}, status=404
            )
        await asyncio.sleep(self.delays.get(body["model"], 0.0))
        self.counters.running += 1
        self.in_use[body["model"]] += 1
        try:
            return await self._stream(request, self.scripts.get(body["model"], self.script))
        except asyncio.CancelledError:
            self._note_abort()
            raise
        except ConnectionResetError:
            self._note_abort()
            return web.Response()
        finally:
            self.counters.running -= 1
            self.in_use[body["model"]] -= 1

    def _note_abort(self) -> None:
        self.counters.aborted_at.append(time.monotonic())
        self.abort.set()

    async def _stream(self, request: web.Request, script: list[str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_event({"role": "assistant", "content": ""}, None))
        if self.raw is not None:
            for part in self.raw:
                await response.write(part)
            while self.raw_is_endless:
                await response.write(self.raw[-1])
                await asyncio.sleep(self.pace_seconds)
            return response
        for number, word in enumerate(script):
            if number == self.silent_after:
                await asyncio.sleep(3600)
            if number == self.cut_after:
                assert request.transport is not None
                request.transport.abort()
                return response
            if number == self.error_after:
                await response.write(b'data: {"error": {"message": "the engine broke"}}\n\n')
                return response
            if number == self.endless_after:
                for _ in range(ENDLESS_PARTS):
                    await response.write(ENDLESS_PART)
                return response
            await response.write(
                _event(
                    {"content": word},
                    None,
                    self.token_fields[number] if number < len(self.token_fields) else {},
                )
            )
            self.counters.words += 1
            await asyncio.sleep(self.pace_seconds)
        await response.write(_event({}, self.finish_reason))
        if not self.reports_usage:
            await response.write(b"data: [DONE]\n\n")
            return response
        usage = {"prompt_tokens": 7, "completion_tokens": len(script), "total_tokens": 0}
        await response.write(
            b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
        )
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(
    delta: dict[str, str], finish_reason: str | None, token_fields: dict[str, Any] | None = None
) -> bytes:
    body = {
        "choices": [
            {"index": 0, "delta": delta, "finish_reason": finish_reason, **(token_fields or {})}
        ]
    }
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


@asynccontextmanager
async def predictor_server(
    predictor: FakePredictor, port: int = 0, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """Serve on loopback; a second server on the same port acts as a restarted process."""
    runner = web.AppRunner(predictor.app(), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, port, reuse_address=True)
    await site.start()
    try:
        assert runner.addresses
        yield int(runner.addresses[0][1])
    finally:
        # A connection that is accepted at this moment needs more turns of the event loop than the
        # one of `cleanup` until the runner knows it, and would stay open. A sleep of some time is
        # a single turn if the turn before it took longer.
        await site.stop()
        for _ in range(10):
            await asyncio.sleep(0)
        await runner.cleanup()


async def _serve(predictor: FakePredictor, port: int) -> None:
    async with predictor_server(predictor, port) as chosen:
        print(chosen, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(FakePredictor(**json.loads(sys.argv[1])), int(sys.argv[2])))
