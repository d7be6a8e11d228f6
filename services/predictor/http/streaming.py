"""Server-sent events.

Each delta is one event and one write. An error after the first byte is the last event.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from aiohttp import web

from services.predictor.errors import PredictorError
from services.predictor.http.replies import error_body
from services.predictor.version import Delta

# Request keys through which handlers pass metric labels to the middleware. The version is
# set only for a loaded version, so that a caller's text never becomes a label.
VERSION = web.RequestKey("version", str)
# Status of a stream that failed after its 200 was sent.
STATUS = web.RequestKey("status", int)


HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
DONE = b"data: [DONE]\n\n"


class StreamBodies(Protocol):
    """Response bodies of one stream."""

    def first_chunk(self) -> dict[str, Any] | None: ...
    def chunk(self, delta: Delta) -> dict[str, Any]: ...
    def usage_chunk(self, prompt_tokens: int, completion_tokens: int) -> dict[str, Any]: ...


async def send_stream(
    request: web.Request,
    deltas: AsyncGenerator[Delta, None],
    bodies: StreamBodies,
    prompt_tokens: int,
    include_usage: bool,
) -> web.StreamResponse:
    """Write deltas as they arrive.

    A disconnect of the reader cancels this task, and thereby the generation.

    Raises:
        PredictorError: the engine refused the request before the first byte; later errors become an
            event.
    """
    response = web.StreamResponse(headers=HEADERS)
    completion_tokens = 0
    async with aclosing(deltas):
        try:
            # The first delta comes before the headers, so that a refusal still has a status.
            first = await anext(deltas)
            await response.prepare(request)
            if (first_chunk := bodies.first_chunk()) is not None:
                await response.write(_event(first_chunk))
            await response.write(_event(bodies.chunk(first)))
            completion_tokens = first.completion_tokens
            async for delta in deltas:
                completion_tokens = delta.completion_tokens
                await response.write(_event(bodies.chunk(delta)))
        except PredictorError as error:
            if not response.prepared:
                raise
            # The response has status 200 already; the metrics count the real one.
            request[STATUS] = error.status
            await response.write(_event(error_body(error, error.status)))
            await response.write_eof()
            return response
    if include_usage:
        await response.write(_event(bodies.usage_chunk(prompt_tokens, completion_tokens)))
    await response.write(DONE)
    await response.write_eof()
    return response


def _event(body: dict[str, Any]) -> bytes:
    return (
        b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
    )
