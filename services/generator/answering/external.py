"""Models of other providers behind OpenAI-compatible endpoints.

Texts of users leave the installation with each request, so no such model exists unless the settings
name it. No error, log record or metric has the key, the prompt, or a text of the endpoint.
"""

import asyncio
import io
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from thumbwheel.chat.v1 import chat_pb2

from chat_format.control_tokens import ControlTokens
from services.chassis.errors import ResourceExhaustedError, ServiceError, UnavailableError
from services.chassis.telemetry import fields
from services.contracts.chat import FinishReason
from services.generator.answering.completion import PATH, chat_body, read_chunks
from services.generator.answering.engine import ChatServer, Timeouts
from services.generator.answering.external_model import ExternalModel, Parameter
from services.generator.answering.plain_messages import answer_plain
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk, MalformedStreamError
from services.generator.metrics import EXTERNAL_ANSWERS

log = logging.getLogger(__name__)

KEY = re.compile(r"[!-~]{1,4096}")
DEFAULT_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 3600.0
# For a server that ignores `max_tokens`: 32 characters for each of 4,096 tokens.
MAX_ANSWER_CHARACTERS = 131_072
# Includes events without text, such as those of hidden reasoning.
MAX_STREAM_BYTES = 32 * 1024 * 1024
MAX_COUNT = 10_000_000
# For endpoints that report no usage: quotas count tokens.
CHARACTERS_PER_TOKEN = 4


class Outcome(StrEnum):
    """End of a request to an endpoint; the errors have the reason EXTERNAL_MODEL_<OUTCOME>."""

    ANSWERED = "answered"
    CANCELLED = "cancelled"
    KEY_UNREADABLE = "key_unreadable"
    KEY_REFUSED = "key_refused"
    UNKNOWN = "unknown"
    REQUEST_REFUSED = "request_refused"
    BUSY = "busy"
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    SILENT = "silent"
    LOST = "lost"
    MALFORMED = "malformed"
    TOO_LONG = "too_long"
    FILTERED = "filtered"


TEXTS = {
    Outcome.KEY_UNREADABLE: "the key for the external model cannot be read",
    Outcome.KEY_REFUSED: "the endpoint of the external model refuses the key",
    Outcome.UNKNOWN: "the endpoint does not have the external model",
    Outcome.REQUEST_REFUSED: "the endpoint of the external model refuses the request",
    Outcome.BUSY: "the endpoint of the external model has too many requests",
    Outcome.FAILED: "the endpoint of the external model failed",
    Outcome.UNREACHABLE: "the endpoint of the external model is unreachable",
    Outcome.SILENT: "the external model does not answer in time",
    Outcome.LOST: "the endpoint of the external model ended the stream early",
    Outcome.MALFORMED: "the endpoint of the external model sent no completion",
    Outcome.TOO_LONG: "the external model wrote more than allowed",
    Outcome.FILTERED: "the provider of the external model withheld the answer",
}
STATUSES = {401: Outcome.KEY_REFUSED, 403: Outcome.KEY_REFUSED, 404: Outcome.UNKNOWN}


class ExternalModelError(Exception):
    """Failure of a request, before it becomes the error of a service."""

    def __init__(self, outcome: Outcome, retry_seconds: float = DEFAULT_RETRY_SECONDS) -> None:
        super().__init__(outcome)
        self.outcome, self.retry_seconds = outcome, retry_seconds

    def for_caller(self) -> ServiceError:
        """Return the error of the call."""
        kind = ResourceExhaustedError if self.outcome is Outcome.BUSY else UnavailableError
        return kind(
            TEXTS[self.outcome],
            reason=f"EXTERNAL_MODEL_{self.outcome.upper()}",
            retry_seconds=self.retry_seconds,
        )


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

        Raises:
            InvalidArgumentError: control tokens remain in a message.
            ResourceExhaustedError: the endpoint has too many requests.
            UnavailableError: any other failure, with the reason EXTERNAL_MODEL_<OUTCOME>.
        """

        async def request(
            plain: Sequence[chat_pb2.HistoryMessage], sink: Callable[[Chunk], None]
        ) -> None:
            await self._counted(plain, sampling, sink)

        await answer_plain(self._control_tokens, messages, request, on_chunk)

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
            # Without the cause, whose text may quote the endpoint or the request.
            raise error.for_caller() from None
        finally:
            EXTERNAL_ANSWERS.labels(self._model.name, outcome).inc()

    async def _request(
        self,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        key = await asyncio.to_thread(read_key, self._model.key_file)
        body = json.dumps(_body(self._model, messages, sampling)).encode()
        checked = _CheckedAnswer(sum(len(message.text) for message in messages), on_chunk)
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
                    raise _status_error(response)
                await read_chunks(
                    response, first_text, self._timeouts.idle_seconds, checked.line, checked.add
                )
        except TimeoutError as error:
            raise ExternalModelError(Outcome.SILENT) from error
        except aiohttp.ClientConnectorError as error:
            raise ExternalModelError(Outcome.UNREACHABLE) from error
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


class _CheckedAnswer:
    """Chunks of an endpoint within its limits, without fields that only own servers send."""

    def __init__(self, prompt_characters: int, on_chunk: Callable[[Chunk], None]) -> None:
        self._prompt_characters, self._on_chunk = prompt_characters, on_chunk
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
        self._finish_reason = chunk.finish_reason or self._finish_reason
        usage = chunk.usage and (_count(chunk.usage[0]), _count(chunk.usage[1]))
        self._has_usage |= usage is not None
        self._on_chunk(replace(chunk, text=text, usage=usage, token_ids=(), log_probs=()))

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


def read_key(file: Path | None) -> str:
    """Return the key of an endpoint, "" without a file. Blocking.

    Read for each request, so that a changed secret needs no restart.

    Raises:
        ExternalModelError: the file cannot be read, or has no key.
    """
    if file is None:
        return ""
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ExternalModelError(Outcome.KEY_UNREADABLE) from error
    if not KEY.fullmatch(key):
        raise ExternalModelError(Outcome.KEY_UNREADABLE)
    return key


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


def _status_error(response: aiohttp.ClientResponse) -> ExternalModelError:
    """Return the error for a status; the body is not read, since it may quote the request."""
    header = response.headers.get("Retry-After", "")
    # Otherwise a date, or nothing.
    retry = float(header[:9]) if header.isascii() and header.isdecimal() else DEFAULT_RETRY_SECONDS
    retry = min(retry, MAX_RETRY_SECONDS)
    if response.status == 429:
        return ExternalModelError(Outcome.BUSY, retry)
    is_refused = 400 <= response.status < 500 and response.status != 408
    usual = Outcome.REQUEST_REFUSED if is_refused else Outcome.FAILED
    return ExternalModelError(STATUSES.get(response.status, usual), retry)
