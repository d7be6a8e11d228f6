"""Stream of a chat completion: its events, the sample that they contain, and larger deltas.

Of the server-sent events only `data:` lines are read; comment lines keep the connection open.
aiohttp splits the stream into lines.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from services.contracts.chat import Sample
from services.contracts.limits import MAX_REPLY_TOKENS

DONE = b"[DONE]"
MAX_ID = 2**32 - 1
# Rounding may leave the log-prob of a certain token slightly above 0. vLLM sends -9999 for a
# missing value.
ROUNDING, NO_LOG_PROB = 1e-4, -9999.0
# An infinite count overflows, and JSON may be nested too deeply.
PARSING_ERRORS = (
    *(ValueError, KeyError, TypeError, IndexError, AttributeError),
    *(OverflowError, RecursionError),
)
PAUSE_GROWTH = 1.5  # factor from one message to the next
MAX_PAUSE = 4  # upper limit, in multiples of `window_seconds`


class MalformedStreamError(Exception):
    """The stream is not that of a chat completion."""


@dataclass(frozen=True)
class Chunk:
    """Content of one event; fields without content are empty or None.

    Token ids and log-probs are vLLM's `return_token_ids` and `logprobs`.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: tuple[int, int] | None = None
    failed: bool = False
    done: bool = False
    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()


def parse_line(line: bytes) -> Chunk | None:
    """Return the chunk of a `data:` line; None for another line and for the start of a lost line.

    Raises:
        MalformedStreamError: the event is not a chunk of a chat completion.
    """
    if not (line.startswith(b"data:") and line.endswith(b"\n")):
        return None
    data = line.removeprefix(b"data:").strip()
    if data == DONE:
        return Chunk(done=True)
    try:
        body = json.loads(data)
        if "error" in body:
            return Chunk(failed=True)
        usage = body.get("usage")
        counts = (int(usage["prompt_tokens"]), int(usage["completion_tokens"])) if usage else None
        if not body["choices"]:
            return Chunk(usage=counts)
        choice = body["choices"][0]
        text, ended = choice["delta"].get("content") or "", choice.get("finish_reason")
        if not isinstance(text, str):
            raise MalformedStreamError
        token_ids, log_probs = _tokens(choice)
        return Chunk(text, ended, counts, token_ids=token_ids, log_probs=log_probs)
    except PARSING_ERRORS as error:
        raise MalformedStreamError from error


def _tokens(choice: dict[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return token ids and log-probs; empty for an unknown form, which must not end the answer."""
    token_ids, log_probs = choice.get("token_ids"), choice.get("logprobs")
    if not isinstance(token_ids, list) or any(type(token) is not int for token in token_ids):
        token_ids = []
    scores = log_probs.get("content") if isinstance(log_probs, dict) else None
    try:
        return tuple(token_ids), tuple(float(score["logprob"]) for score in scores or ())
    except (KeyError, TypeError, ValueError):
        return tuple(token_ids), ()


class SampleParts:
    """Collects token ids and log-probs from chunks; empty if the server sends none.

    A gap drops the whole sample, since the sample would describe another answer.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._log_probs: list[float] = []

    def add(self, token_ids: Sequence[int], log_probs: Sequence[float]) -> None:
        """Add the tokens of one chunk; different lengths make the sample invalid."""
        self._ids += token_ids
        self._log_probs += log_probs

    def joined(self, completion_tokens: int) -> Sample | None:
        """Return the complete sample, or None if a token or a log-prob is missing.

        Args:
            completion_tokens: number of tokens that the server reported for the answer.
        """
        if (
            not len(self._ids) == len(self._log_probs) == completion_tokens
            or not 1 <= completion_tokens <= MAX_REPLY_TOKENS
        ):
            return None
        if not all(0 <= token <= MAX_ID for token in self._ids):
            return None
        if not all(
            math.isfinite(value) and NO_LOG_PROB < value < ROUNDING for value in self._log_probs
        ):
            return None
        return Sample(tuple(self._ids), tuple(min(value, 0.0) for value in self._log_probs))


async def coalesced(
    deltas: "asyncio.Queue[str | None]", window_seconds: float
) -> AsyncIterator[str]:
    """Yield the texts of the queue until None, in growing pauses.

    Small deltas are joined, because every message costs time at every hop. Pauses grow as in the
    gateway's output guard (services/gateway/answering/output_guard.py); shorter pauses would have
    no effect.

    The first and the last text are yielded at once and the second after `window_seconds`. Later
    pauses grow by PAUSE_GROWTH up to MAX_PAUSE times `window_seconds`.
    """
    loop = asyncio.get_running_loop()
    last, pause = float("-inf"), window_seconds / PAUSE_GROWTH
    while (delta := await deltas.get()) is not None:
        wait = last + pause - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        parts: list[str] = [delta]
        ended = False
        # Everything that arrived during the pause becomes one message.
        while not deltas.empty() and not ended:
            more = deltas.get_nowait()
            ended = more is None
            parts.append(more or "")
        yield "".join(parts)
        pause = min(PAUSE_GROWTH * pause, MAX_PAUSE * window_seconds)
        last = loop.time()
        if ended:
            return
