"""Client of a model server: chat completions, hang detection, and KServe V2's repository extension.

Completions are streamed in OpenAI's format. Errors of the HTTP client are translated here. Error
texts of the server are never passed on, since they may quote a user's message; those of the
repository extension describe directories.
"""

import asyncio
import io
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from services.chassis.telemetry import trace_headers
from services.contracts.limits import ContextLengthError
from services.generator.answering.completion import PATH, chat_body, read_chunks
from services.generator.answering.engine import Timeouts
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk, MalformedStreamError

DEFAULT_RETRY_SECONDS = 1.0
UNLOAD_SECONDS = 120.0
SILENT_REASON = "MODEL_SERVER_SILENT"
_PARAMETERS = frozenset({"messages", "temperature", "top_p", "max_tokens", "stop", "seed"})
# Wordings of the predictor and of vLLM, which names own parameters instead of `messages`.
_TOKEN_LIMIT = re.compile(r"(?:limit is |maximum context length is |max_model_len=)(\d+)")
_PROMPT_PARAMETERS = frozenset({"input_text", "input_tokens"})


class Completions:
    """Answers of one model server.

    The session belongs to the caller and has a timeout for connecting. A server that hangs keeps
    its connections open, and to a waiting request a long queue looks the same. A periodic probe
    distinguishes a hang from a queue. If the probe times out and no other response arrives either,
    all pending answers fail.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, timeouts: Timeouts) -> None:
        self._http = http
        self.url = url
        self._timeouts = timeouts
        self._answer_timeouts: set[asyncio.Timeout] = set()
        self._last_response_at = time.monotonic()
        self._last_index: Mapping[str, bool] | None = None

    def probe_succeeded(self, index: Mapping[str, bool]) -> Mapping[str, bool]:
        """Record the index that a probe returned: for each version, True if ready."""
        self._last_response_at, self._last_index = time.monotonic(), index
        return index

    def probe_failed(self) -> Mapping[str, bool] | None:
        """Record a probe without an answer and return the last index, or None if the server hangs.

        While responses of other requests arrive, the server is busy and its last index still holds.
        After `hang_seconds` without any response, all pending answers time out.
        """
        if time.monotonic() < self._last_response_at + self._timeouts.hang_seconds:
            return self._last_index
        for timeout in self._answer_timeouts:
            # An expired timeout cannot be rescheduled.
            if not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())
        return None

    async def tokenizer_info(self, version: str) -> Mapping[str, Any] | None:
        """Return the version's tokenizer_config.json; None if the server does not send it.

        vLLM needs --enable-tokenizer-info-endpoint.
        """
        try:
            async with (
                asyncio.timeout(self._timeouts.hang_seconds),
                self._http.get(f"{self.url}/tokenizer_info", params={"model": version}) as response,
            ):
                content = await response.json()
        except (TimeoutError, aiohttp.ClientError, ValueError):
            return None
        return content if response.status == 200 and isinstance(content, dict) else None

    async def tokenize(self, version: str, text: str) -> list[int] | None:
        """Return the token ids of a text at the server; None without such a path.

        Raises:
            UnavailableError: the server does not answer.
        """
        body = {"model": version, "prompt": text, "add_special_tokens": False}
        try:
            async with (
                asyncio.timeout(self._timeouts.hang_seconds),
                self._http.post(f"{self.url}/tokenize", json=body) as response,
            ):
                if response.status in (404, 405):
                    return None
                if response.status != 200:
                    raise await _error_from(response)
                return [int(token) for token in (await response.json())["tokens"]]
        except TimeoutError as error:
            raise _silent_error() from error
        except (aiohttp.ClientError, ValueError, KeyError, TypeError) as error:
            raise unreachable_error() from error

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Pass the chunks of an answer to `on_chunk` as they arrive.

        Cancellation closes the connection, which aborts the generation.

        Raises:
            ServiceError: the server refuses the request, see `_error_from`.
            UnavailableError: the server is unreachable, hangs, or ends the stream early.
        """
        body = json.dumps(chat_body(version, messages, sampling)).encode()
        timeout = asyncio.timeout(self._timeouts.first_token_seconds)
        # `probe_failed` may move the timeout. No other task runs between these lines and the start
        # and the end of the timeout, so the set holds running timeouts only.
        self._answer_timeouts.add(timeout)
        try:
            async with (
                timeout,
                self._http.post(
                    f"{self.url}/v1/{PATH}",
                    # From a file, aiohttp sends a large body in parts.
                    data=io.BytesIO(body),
                    headers={"content-type": "application/json", **trace_headers()},
                ) as response,
            ):
                # Errors have a status only before the first byte; later ones are events.
                if response.status != 200:
                    raise await _error_from(response)
                await read_chunks(
                    response, timeout, self._timeouts.idle_seconds, self._note_line, on_chunk
                )
        # A connection that is not accepted in time is also a TimeoutError.
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise unreachable_error() from error
        except TimeoutError as error:
            raise _silent_error() from error
        except (aiohttp.ClientError, LineTooLong, MalformedStreamError) as error:
            raise _stream_lost_error() from error
        finally:
            self._answer_timeouts.remove(timeout)

    def _note_line(self, size: int) -> None:
        self._last_response_at = time.monotonic()


class HttpModelServer:
    """One replica of a model server for all versions; its model index is the liveness probe."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, timeouts: Timeouts, load_seconds: float
    ) -> None:
        self._http = http
        self._url = url
        self._timeouts = timeouts
        self._load_seconds = load_seconds
        self._completions = Completions(http, url, timeouts)

    async def index(self) -> Mapping[str, bool]:
        """Return for each version True if ready; while the server is busy, the last known index.

        Raises:
            UnavailableError: the server is unreachable or hangs.
        """
        try:
            entries = await self._post("index", {}, self._timeouts.hang_seconds)
        except UnavailableError as error:
            index = self._completions.probe_failed()
            if index is None or error.reason != SILENT_REASON:
                raise
            return index
        try:
            return self._completions.probe_succeeded(
                {entry["name"]: entry["state"] == "READY" for entry in entries}
            )
        except (KeyError, TypeError) as error:
            raise unreachable_error() from error

    async def load(self, version: str, directory: str) -> None:
        """Load a version and return when the version is ready.

        Raises:
            UnavailableError: the server is unreachable or busy.
            FailedPreconditionError: the version cannot be loaded; the text holds the reason.
        """
        body = {"parameters": {"directory": directory}}
        await self._post(f"models/{version}/load", body, self._load_seconds)

    async def unload(self, version: str) -> None:
        """Unload a version and return when its memory is free.

        Raises:
            UnavailableError: the server is unreachable or busy.
            NotFoundError: the version is not loaded.
            FailedPreconditionError: answers run on the version.
        """
        await self._post(
            f"models/{version}/unload", {"parameters": {"only_idle": True}}, UNLOAD_SECONDS
        )

    async def tokenizer_info(self, version: str) -> Mapping[str, Any] | None:
        """Return the version's tokenizer_config.json, see `Completions.tokenizer_info`."""
        return await self._completions.tokenizer_info(version)

    async def tokenize(self, version: str, text: str) -> list[int] | None:
        """Return the token ids of a text, see `Completions.tokenize`."""
        return await self._completions.tokenize(version, text)

    async def _post(self, path: str, body: object, seconds: float) -> Any:
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.post(f"{self._url}/v2/repository/{path}", json=body) as response,
            ):
                content = await response.json()
                if response.status == 200:
                    return content
        except TimeoutError as error:
            raise _silent_error() from error
        except (aiohttp.ClientError, ValueError) as error:
            raise unreachable_error() from error
        if response.status == 404:
            raise not_held_error()
        if response.status in (401, 403):
            raise _refused_key_error()
        if response.status in (429, 503):
            raise UnavailableError(
                "the model server is busy loading or unloading versions", reason="MODEL_SERVER_BUSY"
            )
        # Repository errors describe directories and contain no user text, so the message may be
        # passed on.
        raise FailedPreconditionError(str(content.get("error", f"status {response.status}"))[:400])

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Implement `ChatServer.answer`, see `Completions.answer`."""
        await self._completions.answer(version, messages, sampling, on_chunk)


def _silent_error() -> UnavailableError:
    """Return the error for a server that accepts connections but does not answer in time."""
    return UnavailableError(
        "the model server does not respond",
        reason=SILENT_REASON,
        retry_seconds=DEFAULT_RETRY_SECONDS,
    )


def _refused_key_error() -> UnavailableError:
    """Return the error for a server that refuses the caller, which only an operator can change."""
    return UnavailableError(
        "the model server refuses the key of the generator or the host name of its URL",
        reason="MODEL_SERVER_REFUSES",
    )


def _stream_lost_error() -> UnavailableError:
    """Return the error for a stream that ended without a finish reason."""
    return UnavailableError(
        "the model server ended the stream early",
        reason="MODEL_SERVER_LOST",
        retry_seconds=DEFAULT_RETRY_SECONDS,
    )


async def _error_from(response: aiohttp.ClientResponse) -> ServiceError:
    """Translate an HTTP status.

    401, 403: the key or the host name is refused. 404: the version is not loaded. 429: the queue is
    full. 503: the version loads or drains.
    """
    header = response.headers.get("Retry-After", "")
    retry = float(header) if header.isdecimal() else DEFAULT_RETRY_SECONDS
    match response.status:
        case 400 | 413 | 422:
            return await _invalid_request_error(response)
        case 401 | 403:
            return _refused_key_error()
        case 404:
            return not_held_error()
        case 429:
            return ResourceExhaustedError(
                "the model server's queue is full", reason="MODEL_QUEUE_FULL", retry_seconds=retry
            )
        case 503:
            return UnavailableError(
                "the model is not ready", reason="MODEL_NOT_READY", retry_seconds=retry
            )
        case _:
            return UnavailableError(
                "the model server failed", reason="MODEL_SERVER_FAILED", retry_seconds=retry
            )


async def _invalid_request_error(response: aiohttp.ClientResponse) -> InvalidArgumentError:
    try:
        error = (await response.json())["error"]
        param, message = str(error.get("param")), str(error.get("message"))
    except (aiohttp.ClientError, ValueError, KeyError, TypeError, AttributeError):
        param, message = "", ""
    name = "messages" if param in _PROMPT_PARAMETERS else param.split(".")[0]
    if name not in _PARAMETERS:
        return InvalidArgumentError("the model server rejects the request", field="messages")
    limit = _TOKEN_LIMIT.search(message)
    if limit is None:
        return InvalidArgumentError(f"the model server rejects {name}", field=name)
    tokens = f"{limit[1]} tokens"
    return ContextLengthError(
        f"{ContextLengthError.TEXT} by {name}: at most {tokens}", field=name, limit=tokens
    )


def not_held_error() -> NotFoundError:
    """Return the error for a version that the server does not hold."""
    return NotFoundError("the model server does not hold this version")


def unreachable_error() -> UnavailableError:
    """Return the error for a refused or failed connection, without the address: users see it."""
    return UnavailableError(
        "the model server is unreachable",
        reason="MODEL_NOT_READY",
        retry_seconds=DEFAULT_RETRY_SECONDS,
    )
