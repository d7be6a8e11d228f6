"""OpenAI's API over the same turns. Compatible with the `openai` package, including streaming."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.chassis.errors import NotFoundError, ServiceError
from services.chassis.identity import require_caller
from services.gateway.http.body import read_object
from services.gateway.http.connection import EventStream, while_connected
from services.gateway.http.errors import error_body, rate_limit_headers
from services.gateway.http.openai_request import completion_request
from services.gateway.http.openai_response import Completion, model_entry
from services.gateway.http.router import ProtectedRoute, Router
from services.gateway.peers.generator import GeneratorPeer
from services.gateway.turns.events import TurnEvent
from services.gateway.turns.request import ROLLOUT_MODEL
from services.gateway.turns.turns import Turns

Events = AsyncGenerator[TurnEvent, None]


class OpenAiApi:
    """HTTP endpoints under /v1."""

    def __init__(self, turns: Turns, generator: GeneratorPeer) -> None:
        self._turns, self._generator = turns, generator

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        return [
            router.route("POST /v1/chat/completions", self.complete),
            router.route("GET /v1/models", self.list_models),
            router.route("GET /v1/models/{model}", self.get_model),
        ]

    async def complete(self, request: Request) -> Response:
        wanted = completion_request(await read_object(request))
        completion = Completion(wanted.model, wanted.include_usage)
        turn = self._turns.start(require_caller(), wanted.turn)
        events = turn.events_after(0)
        if not wanted.stream:
            await while_connected(request, _collect(completion, events))
            return JSONResponse(
                completion.whole(), headers=rate_limit_headers(turn.reservation.levels)
            )
        # Before the first event, an error can still be sent as an HTTP status.
        first = await while_connected(request, anext(events))
        headers = rate_limit_headers(turn.reservation.levels)
        return EventStream(_server_sent(completion, first, events), headers)

    async def list_models(self, request: Request) -> Response:
        names = (ROLLOUT_MODEL, *await self._generator.served_versions())
        return JSONResponse({"object": "list", "data": [model_entry(name) for name in names]})

    async def get_model(self, request: Request) -> Response:
        model = request.path_params["model"]
        if model not in (ROLLOUT_MODEL, *await self._generator.served_versions()):
            raise NotFoundError(
                "the model is not served",
                reason="MODEL_NOT_FOUND",
                field="model",
                limit="see /v1/models",
            )
        return JSONResponse(model_entry(model))


async def _collect(completion: Completion, events: Events) -> None:
    async with aclosing(events):
        async for event in events:
            completion.take(event)


async def _server_sent(
    completion: Completion, first: TurnEvent, events: Events
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        for chunk in completion.take(first):
            yield _data(chunk)
        try:
            async for event in events:
                for chunk in completion.take(event):
                    yield _data(chunk)
        except ServiceError as error:
            # The `openai` package raises the content of "error" as an exception.
            yield _data(error_body(error))
            return
        yield b"data: [DONE]\n\n"


def _data(value: object) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
