"""Server-sent events. Each delta is one event and one write; an error after the first byte is an
event too, and the last.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from aiohttp import web

from services.predictor.errors import PredictorError
from services.predictor.http.labels import STATUS
from services.predictor.http.replies import error_body
from services.predictor.version import Delta

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
DONE = b"data: [DONE]\n\n"


class StreamShape(Protocol):
    """The bodies of one stream."""

    def opening(self) -> dict[str, Any] | None: ...
    def chunk(self, delta: Delta) -> dict[str, Any]: ...
    def closing(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]: ...


async def send_stream(
    request: web.Request,
    deltas: AsyncGenerator[Delta, None],
    shape: StreamShape,
    prompt_tokens: int,
    include_usage: bool,
) -> web.StreamResponse:
    """Write deltas as they come. A reader that goes away cancels this task, and with it the
    generation.

    Raises:
        PredictorError: the engine refused before anything was written; later errors become an
            event.
    """
    response = web.StreamResponse(headers=HEADERS)
    completion_tokens = 0
    async with aclosing(deltas):
        try:
            first = await anext(deltas)
            await response.prepare(request)
            if (opening := shape.opening()) is not None:
                await response.write(_event(opening))
            await response.write(_event(shape.chunk(first)))
            completion_tokens = first.completion_tokens
            async for delta in deltas:
                completion_tokens = delta.completion_tokens
                await response.write(_event(shape.chunk(delta)))
        except PredictorError as error:
            if not response.prepared:
                raise
            request[STATUS] = error.status
            await response.write(_event(error_body(error, error.status)))
            await response.write_eof()
            return response
    if include_usage:
        await response.write(_event(shape.closing(prompt_tokens, completion_tokens)))
    await response.write(DONE)
    await response.write_eof()
    return response


def _event(body: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
