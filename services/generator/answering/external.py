"""Models of other providers behind OpenAI-compatible endpoints.

Texts of users leave the installation with each request, so no such model exists unless the settings
name it. No error, log record or metric has the key, the prompt, or a text of the endpoint.
"""

import asyncio
import io
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from thumbwheel.chat.v1 import chat_pb2

from chat_format.control_tokens import ControlTokens
from services.chassis.endpoints import UnreadableKeyError, read_key
from services.chassis.errors import FailedPreconditionError, NotFoundError
from services.chassis.retries import retry_delay
from services.chassis.telemetry import fields
from services.contracts.chat import FinishReason
from services.generator.answering.completion import PATH, chat_body, read_chunks
from services.generator.answering.engine import ChatServer, Timeouts
from services.generator.answering.external_failures import (
    ExternalModelError,
    Outcome,
    status_error,
)
from services.generator.answering.external_model import ExternalModel, Parameter
from services.generator.answering.plain_messages import answer_plain
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk, MalformedStreamError
from services.generator.metrics import EXTERNAL_ANSWERS

log = logging.getLogger(__name__)

# Delays before a request is repeated, in addition to the endpoint's Retry-After.
ATTEMPTS = 3
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.6, 1.2
# A longer Retry-After is passed on to the caller, and a request that took longer is not repeated.
MAX_PAUSE_SECONDS, MAX_REPEAT_SECONDS = 2.0, 10.0
# For a server that ignores `max_tokens`: 32 characters for each of 4,096 tokens.
MAX_ANSWER_CHARACTERS = 131_072
# Includes events without text, such as those of hidden reasoning.
MAX_STREAM_BYTES = 32 * 1024 * 1024
MAX_COUNT = 10_000_000
# For endpoints that report no usage: quotas count tokens.
CHARACTERS_PER_TOKEN = 4


class ExternalEndpoint:
    """Answers of one external model. The session belongs to the caller."""

    def __init__(
        self, http: aiohttp.ClientSession, model: ExternalModel, timeouts: Timeouts
    ) -> None:
        self._http, self._model, self._timeouts = http, model, timeouts
        # The tokenizer is unknown: the control tokens of all known families become plain text.
        self._control_tokens = ControlTokens.from_configuration()
        # From the start, so that a rate includes the first failure.
        for outcome in Outcome:
            EXTERNAL_ANSWERS.labels(model.name, outcome)

    async def answer(
        self,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Pass the chunks of an answer to `on_chunk` as they arrive; cancellation ends the request.

        A temporary failure before the first event of the answer is repeated.

        Raises:
            InvalidArgumentError: control tokens remain in a message, or the context is too long.
            ResourceExhaustedError: the endpoint has too many requests.
            UnavailableError: any other failure, with the reason EXTERNAL_MODEL_<OUTCOME>.
        """

        async def request(
            plain: Sequence[chat_pb2.HistoryMessage], sink: Callable[[Chunk], None]
        ) -> None:
            await self._repeated(plain, sampling, sink)

        await answer_plain(self._control_tokens, messages, request, on_chunk)

    async def _repeated(
        self,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        latest = loop.time() + MAX_REPEAT_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._counted(messages, sampling, on_chunk)
                return
            except ExternalModelError as error:
                left = latest - loop.time()
                is_too_late = left < 0 or error.retry_after > MAX_PAUSE_SECONDS
                if attempt == ATTEMPTS or is_too_late or not error.is_temporary:
                    # Without the cause, whose text may quote the endpoint or the request.
                    raise error.for_caller() from None
                delay = retry_delay(attempt, FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS, left)
                seconds = error.retry_after + delay
            await asyncio.sleep(seconds)

    async def _counted(
        self,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        outcome = Outcome.CANCELLED
        try:
            await self._request(messages, sampling, on_chunk)
            outcome = Outcome.ANSWERED
        except ExternalModelError as error:
            outcome = error.outcome
            log.warning(
                "external model failed", extra=fields(model=self._model.name, outcome=outcome)
            )
            raise
        finally:
            EXTERNAL_ANSWERS.labels(self._model.name, outcome).inc()

    async def _request(
        self,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        try:
            key = await asyncio.to_thread(read_key, self._model.key_file)
        except UnreadableKeyError as error:
            raise ExternalModelError(Outcome.KEY_UNREADABLE) from error
        body = json.dumps(_body(self._model, messages, sampling)).encode()
        stops = () if Parameter.STOP in self._model.parameters else sampling.stop
        checked = _CheckedAnswer(sum(len(message.text) for message in messages), stops, on_chunk)
        first_text = asyncio.timeout(self._timeouts.first_token_seconds)
        try:
            async with (
                asyncio.timeout(self._model.seconds),
                first_text,
                self._http.post(
                    f"{self._model.url}/{PATH}",
                    # From a file, aiohttp sends a large body in parts.
                    data=io.BytesIO(body),
                    headers={
                        "content-type": "application/json",
                        **({"authorization": f"Bearer {key}"} if key else {}),
                    },
                    # Key and texts go to the configured host only.
                    allow_redirects=False,
                ) as response,
            ):
                if response.status != 200:
                    raise await status_error(response)
                await read_chunks(
                    response, first_text, self._timeouts.idle_seconds, checked.line, checked.add
                )
        except _StopTextError:
            pass
        except TimeoutError as error:
            raise ExternalModelError(Outcome.SILENT) from error
        except aiohttp.ClientConnectorError as error:
            raise ExternalModelError(Outcome.UNREACHABLE, is_temporary=True) from error
        except (LineTooLong, MalformedStreamError) as error:
            raise ExternalModelError(Outcome.MALFORMED) from error
        except aiohttp.ClientError as error:
            raise ExternalModelError(Outcome.LOST) from error
        checked.end()


class ExternalModels:
    """Answers of external models, and of a model server for all other versions.

    Args:
        server: server of the versions.
        endpoints: endpoints by the name of their model.
    """

    def __init__(self, server: ChatServer, endpoints: Mapping[str, ExternalEndpoint]) -> None:
        self._server, self._endpoints = server, endpoints

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Implement `ChatServer.answer` for external models and versions."""
        if endpoint := self._endpoints.get(version):
            await endpoint.answer(messages, sampling, on_chunk)
        else:
            await self._server.answer(version, messages, sampling, on_chunk)


class NoModelServer:
    """Stands in for the model server if external models answer everything (serving external).

    Implements `ChatServer` and `ModelRepository`: external models are always ready, so that neither
    the start nor the health of the generator depends on an endpoint.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._index = dict.fromkeys(names, True)

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Refuse a version.

        Raises:
            NotFoundError: always.
        """
        raise NotFoundError("no model server holds this version")

    async def index(self) -> Mapping[str, bool]:
        """Return the external models; all of them are ready."""
        return self._index

    async def load(self, version: str, directory: str) -> None:
        """Refuse a version.

        Raises:
            FailedPreconditionError: always.
        """
        raise FailedPreconditionError("no model server can load this version", field="version")

    async def unload(self, version: str) -> None:
        """Return at once; no version is ever loaded."""

    async def load_missing(self, version: str, directory: str) -> None:
        """Return at once; there are no replicas."""

    async def bases(self, wanted: Mapping[str, str]) -> frozenset[str]:
        """Return no bases, since an endpoint has no adapters."""
        return frozenset()


class _StopTextError(Exception):
    """The answer has reached a stop text, and the request can end."""


class _StopTexts:
    """Ends an answer at its first stop text, for an endpoint that does not accept them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts, self._held = texts, ""
        self.is_reached = False

    def feed(self, text: str) -> str:
        """Return the text that belongs to the answer for certain."""
        self._held += text
        found = [at for stop in self._texts if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_reached = True
            return self._held[: min(found)]
        # What may be the beginning of a stop text waits.
        waiting = max(
            (
                size
                for stop in self._texts
                for size in range(1, len(stop))
                if self._held.endswith(stop[:size])
            ),
            default=0,
        )
        released = self._held[: len(self._held) - waiting]
        self._held = self._held[len(released) :]
        return released

    def flush(self) -> str:
        """Return the text that waits, at the end of the answer."""
        released, self._held = self._held, ""
        return released


class _CheckedAnswer:
    """Chunks of an endpoint within its limits, without fields that only own servers send.

    `stops` are stop texts that the endpoint does not get.
    """

    def __init__(
        self, prompt_characters: int, stops: Sequence[str], on_chunk: Callable[[Chunk], None]
    ) -> None:
        self._prompt_characters, self._on_chunk = prompt_characters, on_chunk
        self._stops = _StopTexts(stops)
        self._bytes = self._characters = 0
        self._finish_reason: str | None = None
        self._has_usage = False

    def line(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_STREAM_BYTES:
            raise ExternalModelError(Outcome.TOO_LONG)

    def add(self, chunk: Chunk) -> None:
        # Half of a surrogate pair is valid JSON, but no text that gRPC can send.
        text = chunk.text.encode(errors="replace").decode()
        self._characters += len(text)
        if self._characters > MAX_ANSWER_CHARACTERS:
            raise ExternalModelError(Outcome.TOO_LONG)
        text = self._stops.feed(text)
        reason = FinishReason.STOP if self._stops.is_reached else chunk.finish_reason
        if reason and not self._stops.is_reached:
            text += self._stops.flush()
        self._finish_reason = reason or self._finish_reason
        usage = chunk.usage and (_count(chunk.usage[0]), _count(chunk.usage[1]))
        self._has_usage |= usage is not None
        self._on_chunk(
            replace(chunk, text=text, finish_reason=reason, usage=usage, token_ids=(), log_probs=())
        )
        if self._stops.is_reached:
            raise _StopTextError

    def end(self) -> None:
        """Check the end of the stream, and estimate the usage if none was reported.

        Raises:
            ExternalModelError: the answer is incomplete.
        """
        if self._finish_reason == "content_filter":
            raise ExternalModelError(Outcome.FILTERED)
        if self._finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            raise ExternalModelError(Outcome.LOST)
        if not self._has_usage:
            counts = (self._prompt_characters, self._characters)
            prompt, answer = (math.ceil(count / CHARACTERS_PER_TOKEN) for count in counts)
            self._on_chunk(Chunk(usage=(prompt, answer)))


def _count(value: int) -> int:
    return min(max(value, 0), MAX_COUNT)


def _body(
    model: ExternalModel, messages: Sequence[chat_pb2.HistoryMessage], sampling: Sampling
) -> dict[str, object]:
    """Return the body of a request, with the parameters that the endpoint accepts."""
    body = chat_body(model.model, messages, sampling)
    body[Parameter.MAX_COMPLETION_TOKENS] = sampling.max_tokens
    refused = {parameter.value for parameter in Parameter} - model.parameters
    return {name: value for name, value in body.items() if name not in refused}
