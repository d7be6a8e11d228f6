"""Guard model of the operator behind an OpenAI-compatible endpoint: the last stage of the guard.

It judges the texts that all built-in stages allowed, and can only make a verdict stricter. No
error, log record or metric has the key, a judged text or an answer of the model.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import aiohttp
from cachetools import LRUCache
from prometheus_client import Counter

from services.chassis.endpoints import UnreadableKeyError, read_key
from services.chassis.errors import UnavailableError
from services.chassis.telemetry import fields
from services.contracts.chat import Action
from services.guardrail.operator_answers import Exchange, Format, NonsenseError, messages, parse
from services.guardrail.verdict import JUDGED, Category, Judge, Verdict, strictest

log = logging.getLogger(__name__)

# A completion of at most 4,096 tokens, with hidden reasoning, in JSON.
MAX_RESPONSE_BYTES = 256 * 1024
# Texts that wait for a connection; further ones fail at once.
MAX_WAITING = 256
# Texts of one call that wait or are judged at a time, so that the history of one client, up to 202
# texts, does not fill the queue.
MAX_CALL_TEXTS = 4
# Characters that two parts of a long text share.
OVERLAP = 200
# A client that keeps its conversation sends all its messages with each request.
CACHED_TEXTS = 4_096
# vLLM closes idle connections after 5 s; a request on a closed connection would fail.
KEEP_ALIVE_SECONDS = 3.0
# Score of verdicts, since the formats have no probability.
SCORE = 1.0


class OnFailure(StrEnum):
    """Reaction to a text without a verdict of the model.

    CLOSED: the call fails, and no text is shown. SKIP: the verdict of the built-in stages stands.
    """

    CLOSED = "closed"
    SKIP = "skip"


class Judges(StrEnum):
    """Texts that the model judges."""

    REQUESTS = "requests"
    REQUESTS_AND_ANSWERS = "requests_and_answers"


class Result(StrEnum):
    """Result of judging one text."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    TIMEOUT = "timeout"
    ERROR = "error"
    NONSENSE = "nonsense"
    BUSY = "busy"


@dataclass(frozen=True)
class OperatorModel:
    """Guard model of the operator, as the settings describe it.

    Args:
        endpoint: base URL, to which `/chat/completions` is appended.
        key_file: file with the key; None: requests have no key.
        model: name of the model at the endpoint.
        format: format of its answers.
        policy: policy in a system message; "" for a model that knows its policy.
        judges: texts that the model judges.
        on_failure: reaction to a text without a verdict.
        timeout_seconds: longest time for all texts of one call.
        connections: requests at a time.
        max_tokens: limit of an answer.
        max_characters: longest text of one request; a longer text is judged in parts.
    """

    endpoint: str
    key_file: Path | None
    model: str
    format: Format
    policy: str
    judges: Judges
    on_failure: OnFailure
    timeout_seconds: float
    connections: int
    max_tokens: int
    max_characters: int

    @property
    def version(self) -> str:
        """Return a hash over all that affects verdicts, as a part of the policy version."""
        parts = (self.model, self.format, self.policy, self.judges, self.on_failure)
        numbers = (self.max_tokens, self.max_characters)
        return hashlib.sha256(json.dumps([*parts, *numbers]).encode()).hexdigest()[:8]


class OperatorUnavailableError(UnavailableError):
    """The operator's model gave no verdict on a text."""

    reason = "GUARD_MODEL_UNAVAILABLE"
    # A repeated call would give the failing model three times the load.
    from_peer = True


class OperatorStage:
    """Verdicts of the operator's model. The session belongs to the caller."""

    def __init__(self, http: aiohttp.ClientSession, model: OperatorModel) -> None:
        self._http, self._model = http, model
        self.version = model.version
        self.judges_answers = model.judges is Judges.REQUESTS_AND_ANSWERS
        self._free = asyncio.Semaphore(model.connections)
        self._waiting = 0
        self._requests: LRUCache[bytes, Category] = LRUCache(CACHED_TEXTS)
        # From the start, so that a rate includes the first failure.
        for result in Result:
            CALLS.labels(result)

    async def judge(self, exchanges: Iterable[Exchange]) -> Verdict:
        """Return the strictest verdict on the exchanges: a block, or allow.

        Raises:
            OperatorUnavailableError: a text has no verdict, none is blocked, and failures are not
                skipped. Verdicts on other requests are cached, so that a later call has less to do.
        """
        deadline = asyncio.get_running_loop().time() + self._model.timeout_seconds
        places = asyncio.Semaphore(MAX_CALL_TEXTS)

        async def judge_one(part: Exchange) -> Verdict | None:
            async with places:
                return await self._judge_part(part, deadline)

        parts = dict.fromkeys(
            part for exchange in exchanges for part in _parts(exchange, self._model.max_characters)
        )
        verdicts = await asyncio.gather(*map(judge_one, parts))
        verdict = strictest(each for each in verdicts if each)
        if verdict.action is not Action.BLOCK and None in verdicts:
            if self._model.on_failure is OnFailure.CLOSED:
                raise OperatorUnavailableError("the operator's guard model gave no verdict")
            SKIPPED.inc()
        return verdict

    async def _judge_part(self, part: Exchange, deadline: float) -> Verdict | None:
        """Return the verdict on one text, None without one."""
        key = hashlib.sha256(part.request.encode()).digest()
        category = None if part.answer else self._requests.get(key)
        if category is None:
            result, category = await self._counted(part, deadline)
            if category is None:
                log.warning("operator guard model failed", extra=fields(result=result))
                return None
            if not part.answer:
                self._requests[key] = category
                if category:
                    JUDGED.labels(Judge.OPERATOR).inc()
        return Verdict(Action.BLOCK, category, SCORE) if category else Verdict()

    async def _counted(self, part: Exchange, deadline: float) -> tuple[Result, Category | None]:
        """Return the result of asking the model, and the category unless it failed."""
        category = None
        try:
            async with asyncio.timeout_at(deadline), self._connection():
                category = await self._ask(part)
            result = Result.UNSAFE if category else Result.SAFE
        except TimeoutError:
            result = Result.TIMEOUT
        except (UnreadableKeyError, aiohttp.ClientError):
            result = Result.ERROR
        except _FailedError as error:
            result = error.result
        CALLS.labels(result).inc()
        return result, category

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[None]:
        """Wait for one of the connections.

        Raises:
            _FailedError: too many texts wait.
        """
        if self._waiting >= MAX_WAITING:
            raise _FailedError(Result.BUSY)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()

    async def _ask(self, part: Exchange) -> Category:
        model = self._model
        key = await asyncio.to_thread(read_key, model.key_file)
        body = {
            "model": model.model,
            "messages": messages(part, model.policy),
            "temperature": 0,
            "max_tokens": model.max_tokens,
        }
        async with self._http.post(
            f"{model.endpoint}/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"} if key else {},
            # Key and texts go to the configured host only.
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                raise _FailedError(Result.BUSY if response.status == 429 else Result.ERROR)
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > MAX_RESPONSE_BYTES:
                    raise _FailedError(Result.NONSENSE)
        try:
            answer = json.loads(content)["choices"][0]["message"]["content"]
            return parse(answer, model.format)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, NonsenseError):
            # Without the cause, whose text may quote the answer.
            raise _FailedError(Result.NONSENSE) from None


class _FailedError(Exception):
    """One text has no verdict, for the reason `result`."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


def open_session(connections: int) -> aiohttp.ClientSession:
    """Open the session for requests to the model: no proxy, no cookies, no compressed answers."""
    return aiohttp.ClientSession(
        headers={"User-Agent": "thumbwheel", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None),
        connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=KEEP_ALIVE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


def _parts(exchange: Exchange, characters: int) -> Sequence[Exchange]:
    """Divide a text that is longer than one request may have; an answer has the request's end."""
    text = exchange.answer or exchange.request
    starts = range(0, max(1, len(text) - OVERLAP), characters - OVERLAP)
    parts = [text[start : start + characters] for start in starts]
    if not exchange.answer:
        return [Exchange(part) for part in parts]
    return [Exchange(exchange.request[-characters:], part) for part in parts]


CALLS = Counter(
    "thumbwheel_guardrail_operator_calls_total",
    "Texts that the operator's guard model judged, or that got no verdict, by result.",
    ["result"],
)
SKIPPED = Counter(
    "thumbwheel_guardrail_operator_skipped_total",
    "Verdicts of the built-in stages alone, because the operator's guard model failed.",
)
