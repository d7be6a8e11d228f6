"""Server-sent events of a chat completion, from bytes to what matters. Only `data:` lines count; comments keep a line open."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

DONE = b"[DONE]"


class MalformedStreamError(Exception):
    """Not the stream of a chat completion."""


@dataclass(frozen=True)
class Piece:
    """What one event says; empty and None where it says nothing."""

    text: str = ""
    finish_reason: str | None = None
    usage: tuple[int, int] | None = None
    failed: bool = False
    done: bool = False


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
        return Piece(choice["delta"].get("content") or "", choice.get("finish_reason"), counts)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise MalformedStreamError from error
