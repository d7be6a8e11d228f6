"""OpenAI's API over the same turns. Compatible with the `openai` package, including streaming.

Events of a turn become chat completions, whole and in chunks. The id contains the message id for
feedback.
"""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import NotFoundError, ServiceError
from services.chassis.identity import bind_call, current_call
from services.gateway.http.app import ProtectedRoute, Router
from services.gateway.http.body import read_object
from services.gateway.http.connection import EventStream, while_connected
from services.gateway.http.errors import error_body, rate_limit_headers
from services.gateway.http.openai_request import completion_request, openai_names
from services.gateway.identity.end_users import EndUsers
from services.gateway.peers.generator import GeneratorPeer
from services.gateway.turns.request import ROLLOUT_MODEL
from services.gateway.turns.turns import Turns

# As the receive limit of the gRPC port: 131,072 characters of at most four bytes, and names.
MAX_COMPLETION_BYTES = 640 * 1024
ID_PREFIX = "chatcmpl-"
# FAILED is absent, because a failed turn ends with an error.
FINISH_REASONS = {
    chat_pb2.FINISH_REASON_STOP: "stop",
    chat_pb2.FINISH_REASON_LENGTH: "length",
    chat_pb2.FINISH_REASON_CANCELLED: "stop",
    chat_pb2.FINISH_REASON_INPUT_BLOCKED: "content_filter",
    chat_pb2.FINISH_REASON_OUTPUT_BLOCKED: "content_filter",
}


@dataclass
class Completion:
    """One answer in OpenAI's format, built event by event."""

    model: str
    include_usage: bool = False
    text: str = ""
    finish_reason: str | None = None
    usage: chat_pb2.Usage = field(default_factory=chat_pb2.Usage)
    message_id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def take(self, event: chat_pb2.ChatEvent) -> list[dict[str, Any]]:
        """Apply an event. Returns the chunks for a streaming client."""
        self.message_id = event.message_id
        match event.WhichOneof("event"):
            case "started":
                self.model = event.started.model_version or self.model
                return [self._chunk({"role": "assistant", "content": ""})]
            case "text_delta":
                self.text += event.text_delta.text
                return [self._chunk({"content": event.text_delta.text})]
            case "usage":
                self.usage = event.usage
            case "completed" if event.completed.finish_reason in FINISH_REASONS:
                self.finish_reason = FINISH_REASONS[event.completed.finish_reason]
                chunks = [self._chunk({})]
                if self.include_usage:
                    head = self._head("chat.completion.chunk")
                    chunks.append({**head, "choices": [], "usage": self._usage()})
                return chunks
        return []

    def whole(self) -> dict[str, Any]:
        """Return the complete answer."""
        message = {"role": "assistant", "content": self.text, "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finish_reason,
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self._usage()}

    def _chunk(self, delta: dict[str, str]) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": self.finish_reason}
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": ID_PREFIX + self.message_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
        }

    def _usage(self) -> dict[str, int]:
        prompt, completion = self.usage.prompt_tokens, self.usage.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def model_entry(name: str) -> dict[str, Any]:
    """Return one entry of /v1/models. The creation time is only in the version's manifest."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "thumbwheel"}


Events = AsyncGenerator[chat_pb2.ChatEvent, None]


class OpenAiApi:
    """HTTP endpoints under /v1."""

    def __init__(self, turns: Turns, generator: GeneratorPeer, end_users: EndUsers) -> None:
        self._turns, self._generator, self._end_users = turns, generator, end_users

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        return [
            router.route("POST /v1/chat/completions", self.complete),
            router.route("GET /v1/models", self.list_models),
            router.route("GET /v1/models/{model}", self.get_model),
        ]

    async def complete(self, request: Request) -> Response:
        body = await read_object(request, MAX_COMPLETION_BYTES)
        wanted = completion_request(body)
        caller = self._end_users.named_in_body(request.state.credential, body)
        bind_call(replace(current_call(), caller=caller))
        completion = Completion(wanted.model, wanted.include_usage)
        turn = self._turns.start(caller, wanted.turn)
        events = turn.events_after(0)
        if not wanted.stream:
            with openai_names(body):
                await while_connected(request, _collect(completion, events))
            return JSONResponse(
                completion.whole(), headers=rate_limit_headers(turn.reservation.levels)
            )
        # Before the first event, an error can still be sent as an HTTP status.
        with openai_names(body):
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
    completion: Completion, first: chat_pb2.ChatEvent, events: Events
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
