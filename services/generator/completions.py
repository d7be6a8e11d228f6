"""One model server's streamed chat completions, as OpenAI has them, and whether it has fallen
silent.

Foreign errors are translated here. What the server says in words never passes on: it may quote what
a user wrote.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp

from services.chassis.errors import (
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from services.chassis.telemetry import trace_headers
from services.generator.engine import Message, Patience
from services.generator.presets import Sampling
from services.generator.sse import EventParser, MalformedStreamError, Piece

DEFAULT_RETRY_SECONDS = 1.0
SEEDS = 2**63
# The limit on a silence within an answer is late by at most so much.
RESCHEDULE_SECONDS = 0.5
SILENT = "MODEL_SERVER_SILENT"
_PARAMETERS = frozenset({"messages", "temperature", "top_p", "max_tokens", "stop", "seed"})
_TOKENS = re.compile(r"limit is (\d+)")


class Completions:
    """Answers of one model server; the session is the caller's, with a timeout for connecting.

    A server that hangs keeps its connections open, and a long queue looks the same to the one who
    waits in it. So something small, which its owner asks for all the time, tells them apart:
    unanswered while nothing else is heard either, it ends what waits.
    """

    def __init__(self, http: aiohttp.ClientSession, url: str, patience: Patience) -> None:
        self._http = http
        self.url = url
        self._patience = patience
        self._waits: set[asyncio.Timeout] = set()
        self._heard_at = time.monotonic()
        self._said: Mapping[str, bool] | None = None

    def heard(self, said: Mapping[str, bool]) -> Mapping[str, bool]:
        """It has said just now which versions answer."""
        self._heard_at, self._said = time.monotonic(), said
        return said

    def not_heard(self) -> Mapping[str, bool] | None:
        """It has left something small unanswered. What it said before, while it is heard in its
        answers: it is busy. Else nothing, and after a while of silence whoever waits for it waits
        no more.
        """
        if time.monotonic() < self._heard_at + self._patience.hang_seconds:
            return self._said
        for patience in self._waits:
            if not patience.expired():
                patience.reschedule(asyncio.get_running_loop().time())
        return None

    async def answer(
        self,
        version: str,
        messages: Sequence[Message],
        sampling: Sampling,
        take: Callable[[Piece], None],
    ) -> None:
        """Give the pieces of an answer to `take` as they come. Cancelling closes the connection,
        which aborts the generation.

        Raises:
            ServiceError: see `_refusal`; UnavailableError if the server is away, silent, or breaks
                off.
        """
        body = _chat_body(version, messages, sampling)
        try:
            async with (
                self._waiting() as patience,
                self._http.post(
                    f"{self.url}/v1/chat/completions", json=body, headers=trace_headers()
                ) as response,
            ):
                if response.status != 200:
                    raise await _refusal(response)
                await self._read(response, patience, take)
        except TimeoutError as error:
            raise silent() from error
        except aiohttp.ClientConnectorError as error:
            raise away(self.url) from error
        except (aiohttp.ClientError, MalformedStreamError) as error:
            raise broken_off() from error

    async def _read(
        self,
        response: aiohttp.ClientResponse,
        patience: asyncio.Timeout,
        take: Callable[[Piece], None],
    ) -> None:
        loop, parser, again = asyncio.get_running_loop(), EventParser(), 0.0
        async for data in response.content.iter_any():
            self._heard_at = time.monotonic()
            for piece in parser.feed(data):
                if piece.failed:
                    raise broken_off()
                if piece.text and loop.time() >= again:
                    # Not at every token: a timer costs as much as the token's own event.
                    again = loop.time() + RESCHEDULE_SECONDS
                    patience.reschedule(again + self._patience.idle_seconds)
                take(piece)

    @asynccontextmanager
    async def _waiting(self) -> AsyncIterator[asyncio.Timeout]:
        async with asyncio.timeout(self._patience.first_token_seconds) as patience:
            self._waits.add(patience)
            try:
                yield patience
            finally:
                self._waits.remove(patience)


def silent() -> UnavailableError:
    """It is there, and does not answer in time."""
    return UnavailableError(
        "the model server has fallen silent", reason=SILENT, retry_seconds=DEFAULT_RETRY_SECONDS
    )


def broken_off() -> UnavailableError:
    """The answer ended without an end."""
    return UnavailableError(
        "the model server broke the answer off",
        reason="MODEL_SERVER_LOST",
        retry_seconds=DEFAULT_RETRY_SECONDS,
    )


def _chat_body(version: str, messages: Sequence[Message], sampling: Sampling) -> dict[str, object]:
    body: dict[str, object] = {
        "model": version,
        "messages": [{"role": message.role, "content": message.text} for message in messages],
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
    if sampling.tells_tokens:
        body |= {"logprobs": True, "return_token_ids": True}
    return body


async def _refusal(response: aiohttp.ClientResponse) -> ServiceError:
    """What a status means. 404: the version is not there. 429: the queue is full. 503: loading or
    draining.
    """
    retry = _retry_seconds(response)
    match response.status:
        case 400 | 413 | 422:
            return await _invalid(response)
        case 404:
            return NotFoundError("the model server does not hold this version")
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


async def _invalid(response: aiohttp.ClientResponse) -> InvalidArgumentError:
    try:
        error = (await response.json())["error"]
        named, told = str(error.get("param")), str(error.get("message"))
    except (aiohttp.ClientError, ValueError, KeyError, TypeError, AttributeError):
        named, told = "", ""
    name = named.split(".")[0]
    if name not in _PARAMETERS:
        return InvalidArgumentError("the model server refuses the request", field="messages")
    limit = _TOKENS.search(told)
    if limit is None:
        return InvalidArgumentError(f"the model server refuses {name}", field=name)
    tokens = f"{limit[1]} tokens"
    return InvalidArgumentError(
        f"{name} is over what the model can take: the limit is {tokens}",
        reason="CONTEXT_TOO_LONG",
        field=name,
        limit=tokens,
    )


def _retry_seconds(response: aiohttp.ClientResponse) -> float:
    stated = response.headers.get("Retry-After", "")
    return float(stated) if stated.isdecimal() else DEFAULT_RETRY_SECONDS


def away(url: str) -> UnavailableError:
    """Nobody is there."""
    return UnavailableError(
        f"the model server at {url} is away: see whether the predictor runs, and its log",
        reason="MODEL_NOT_READY",
        retry_seconds=DEFAULT_RETRY_SECONDS,
    )
