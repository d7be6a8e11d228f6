"""A chat completion in OpenAI's format over HTTP: the body of the request, and its stream."""

import asyncio
from collections.abc import Callable, Sequence

import aiohttp
from thumbwheel.chat.v1 import chat_pb2

from services.contracts.wire import ROLES
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk, MalformedStreamError, parse_line

PATH = "chat/completions"
SEEDS = 2**63
# The timer of the idle limit is moved at most this often, so the limit may fire this much later.
RESCHEDULE_SECONDS = 0.5
# Size limit of gRPC messages. vLLM's first event has the token ids of the whole prompt.
MAX_LINE_BYTES = 4 * 1024 * 1024


def chat_body(
    model: str, messages: Sequence[chat_pb2.HistoryMessage], sampling: Sampling
) -> dict[str, object]:
    """Return the body of a request for a streamed completion.

    Args:
        model: name of the model at the server.
        messages: context, oldest message first.
        sampling: parameters; unset ones are left out.
    """
    body: dict[str, object] = {
        "model": model,
        "messages": [
            {"role": ROLES[message.role], "content": message.text} for message in messages
        ],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.seed is not None:
        body["seed"] = sampling.seed % SEEDS
    if sampling.return_tokens:
        body |= {"logprobs": True, "return_token_ids": True}
    return body


async def read_chunks(
    response: aiohttp.ClientResponse,
    text_timeout: asyncio.Timeout,
    idle_seconds: float,
    on_line: Callable[[int], None],
    on_chunk: Callable[[Chunk], None],
) -> None:
    """Pass the chunks of a completion to `on_chunk` until the stream ends.

    Args:
        response: the stream.
        text_timeout: running timeout of the first text, moved at each text.
        idle_seconds: limit between two texts.
        on_line: called with the bytes of each line; any line proves that the server is alive.
        on_chunk: called with each chunk.

    Raises:
        MalformedStreamError: an event is no chunk of a completion, or reports a failure.
        LineTooLong: a line exceeds MAX_LINE_BYTES.
    """
    loop, next_reschedule = asyncio.get_running_loop(), 0.0
    while line := await response.content.readline(max_line_length=MAX_LINE_BYTES):
        on_line(len(line))
        chunk = parse_line(line)
        if chunk is None:
            continue
        if chunk.failed:
            raise MalformedStreamError
        if chunk.text and loop.time() >= next_reschedule:
            # Not at every token, because moving a timer costs as much as parsing an event.
            next_reschedule = loop.time() + RESCHEDULE_SECONDS
            text_timeout.reschedule(next_reschedule + idle_seconds)
        on_chunk(chunk)
