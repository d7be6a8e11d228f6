"""Parser of the server-sent events of a chat completion stream.

Only `data:` lines are read; comment lines keep the connection open.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DONE = b"[DONE]"


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


class EventParser:
    """Incremental parser of a byte stream."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Add bytes and yield the events that are complete.

        Raises:
            MalformedStreamError: an event is not a chunk of a chat completion.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                yield _chunk_from(line[5:].strip())


def _chunk_from(data: bytes) -> Chunk:
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
        return Chunk(
            text, ended, counts, token_ids=_token_ids(choice), log_probs=_log_probs(choice)
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise MalformedStreamError from error


def _token_ids(choice: dict[str, Any]) -> tuple[int, ...]:
    """Return the token ids; empty for an unknown form, which must not end the answer."""
    value = choice.get("token_ids")
    return (
        tuple(value)
        if isinstance(value, list) and all(type(token) is int for token in value)
        else ()
    )


def _log_probs(choice: dict[str, Any]) -> tuple[float, ...]:
    value = choice.get("logprobs")
    scores = value.get("content") if isinstance(value, dict) else None
    try:
        return tuple(float(score["logprob"]) for score in scores or ())
    except (KeyError, TypeError, ValueError):
        return ()
