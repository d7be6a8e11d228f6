"""No character of an answer leaves before the verdict that covers it.

Text collects while a check is in flight. The first text is checked at once, the next after
`coalesce_seconds`, and so on in growing pauses: a reader is slower than a model, and every check
costs two processes. If the guard is away, the stream ends with its error and what was not judged is
never shown.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from services.chassis.errors import UnavailableError
from services.gateway.guard import Action, OutputGuard, OutputRuling

# Limits of guardrail.v1.CheckOutputRequest.
MAX_TAIL_CHARACTERS = 2_000
MAX_PENDING_CHARACTERS = 32_768
PAUSE_GROWTH, GROWN_PAUSE = 1.5, 4  # from check to check; where it ends, in `coalesce_seconds`
# A guard that slows down under load is asked less often: it gets at most a fifth of a stream's
# time.
PAUSES_A_CHECK = 4
LONGEST_PAUSE_SECONDS = 0.25


class HeldAnswer:
    """One answer on its way out: text is added on one side and released on the other."""

    def __init__(self, guard: OutputGuard, prompt: str, coalesce_seconds: float) -> None:
        self._guard, self._prompt = guard, prompt
        self._pause_seconds, self._most_seconds = coalesce_seconds, GROWN_PAUSE * coalesce_seconds
        self._pending, self._tail = "", ""
        self._failure: Exception | None = None
        self._changed, self._closed = asyncio.Event(), asyncio.Event()
        self._stopped = False

    def add(self, text: str) -> None:
        """More text came from the model."""
        self._pending += text
        self._changed.set()

    def end(self, failure: Exception | None = None) -> None:
        """No more text comes; `failure` is raised once the rest is released."""
        self._failure = failure
        self._closed.set()
        self._changed.set()

    def stop(self) -> None:
        """Release nothing more."""
        self._stopped = True
        self.end()

    async def releases(self) -> AsyncIterator[OutputRuling]:
        """The guard's decisions that show something, in order; a block is the last one.

        Raises:
            ServiceError: of the guard, at once; of the model's side, after the text before it.
        """
        while await self._await_text():
            checked_at = time.monotonic()
            ruling = await self._check()
            if self._stopped:
                return
            if ruling.release or ruling.action is Action.BLOCK:
                yield ruling
            if ruling.action is Action.BLOCK:
                return
            if self._tail:
                await self._coalesce(time.monotonic() - checked_at)
        if self._failure:
            raise self._failure

    async def _await_text(self) -> bool:
        """True once there is something new to judge; False at the end."""
        await self._changed.wait()
        return bool(self._pending) and not self._stopped

    async def _check(self) -> OutputRuling:
        piece = self._pending[:MAX_PENDING_CHARACTERS]
        final = self._closed.is_set() and len(piece) == len(self._pending)
        if not self._closed.is_set():
            self._changed.clear()
        ruling = await self._guard.check_output(self._prompt, self._tail, piece, final=final)
        held = 0 if final else min(ruling.held_characters, len(piece))
        if held == MAX_PENDING_CHARACTERS:
            raise UnavailableError(
                "the guard holds back more than can be kept", reason="GUARDRAIL_UNAVAILABLE"
            )
        self._pending = self._pending[len(piece) - held :]
        self._tail = (self._tail + ruling.release)[-MAX_TAIL_CHARACTERS:]
        return ruling

    async def _coalesce(self, check_seconds: float) -> None:
        """Let text collect, unless the end is there already. `check_seconds` is what the last check
        took.
        """
        pause = max(self._pause_seconds - check_seconds, PAUSES_A_CHECK * check_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(min(pause, max(LONGEST_PAUSE_SECONDS, self._most_seconds))):
                await self._closed.wait()
        self._pause_seconds = min(PAUSE_GROWTH * self._pause_seconds, self._most_seconds)
