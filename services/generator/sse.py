"""Server-sent events of a chat completion, from bytes to what matters. Only `data:` lines count;
comments keep a line open.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DONE = b"[DONE]"


class MalformedStreamError(Exception):
    """Not the stream of a chat completion."""


@dataclass(frozen=True)
class Piece:
    """What one event says; empty and None where it says nothing. Token ids and log-probs are vLLM's
    `return_token_ids` and `logprobs`.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: tuple[int, int] | None = None
    failed: bool = False
    done: bool = False
    token_ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()


class EventParser:
    """Feed it bytes as they come."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The events that are complete now. Raises: MalformedStreamError."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data:"):
                yield _piece(line[5:].strip())


def _piece(data: bytes) -> Piece:
    if data == DONE:
        return Piece(done=True)
    try:
        body = json.loads(data)
        if "error" in body:
            return Piece(failed=True)
        usage = body.get("usage")
        counts = (int(usage["prompt_tokens"]), int(usage["completion_tokens"])) if usage else None
        if not body["choices"]:
            return Piece(usage=counts)
        choice = body["choices"][0]
        text, ended = choice["delta"].get("content") or "", choice.get("finish_reason")
        return Piece(
            text, ended, counts, token_ids=_token_ids(choice), log_probs=_log_probs(choice)
        )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise MalformedStreamError from error


def _token_ids(choice: dict[str, Any]) -> tuple[int, ...]:
    """Of what a server has in another form nothing is taken: nobody's answer breaks off for it."""
    told = choice.get("token_ids")
    return (
        tuple(told) if isinstance(told, list) and all(type(token) is int for token in told) else ()
    )


def _log_probs(choice: dict[str, Any]) -> tuple[float, ...]:
    told = choice.get("logprobs")
    scores = told.get("content") if isinstance(told, dict) else None
    try:
        return tuple(float(score["logprob"]) for score in scores or ())
    except (KeyError, TypeError, ValueError):
        return ()
