"""Holds generated text back until a verdict of the guard covers every character.

Text collects while a check is in flight. The first text is checked at once, the second after
`coalesce_seconds`, later ones after growing pauses, because people read more slowly than models
write and each check costs processor time in two processes.

If the guard is unavailable, the stream ends with an error and unchecked text is never shown (fail
closed).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from thumbwheel.guardrail.v1 import guardrail_pb2

from services.chassis.errors import UnavailableError
from services.contracts.limits import MAX_PENDING_CHARACTERS, MAX_TAIL_CHARACTERS

# Factor between two pauses, and the longest pause in units of `coalesce_seconds`.
PAUSE_GROWTH, MAX_PAUSE_FACTOR = 1.5, 4
# A pause lasts at least four times as long as the previous check, so that an overloaded guard
# spends at most a fifth of a stream's time on checks.
PAUSE_PER_CHECK = 4
LONGEST_PAUSE_SECONDS = 0.25


class OutputGuard(Protocol):
    """Checks answers before release. Without a verdict no text is shown (fail closed)."""

    async def check_output(
        self, prompt: str, released_tail: str, pending: str, *, final: bool
    ) -> guardrail_pb2.CheckOutputResponse:
        """Check pending text in the context of the prompt and the text released before.

        Returns:
            The verdict, the text to release, and the number of characters to hold.

        Raises:
            ServiceError: The guard failed. No character of `pending` may be shown.
        """


class HeldAnswer:
    """Buffer between the text of the model and the released text for readers."""

    def __init__(self, guard: OutputGuard, prompt: str, coalesce_seconds: float) -> None:
        self._guard, self._prompt = guard, prompt
        self._pause_seconds, self._max_pause_seconds = (
            coalesce_seconds,
            MAX_PAUSE_FACTOR * coalesce_seconds,
        )
        self._pending, self._tail = "", ""
        self._failure: Exception | None = None
        self._changed, self._closed = asyncio.Event(), asyncio.Event()
        self._stopped = False

    def add(self, text: str) -> None:
        """Append text from the model."""
        self._pending += text
        self._changed.set()

    def end(self, failure: Exception | None = None) -> None:
        """Mark the end of the text. `failure` is raised after the release of all earlier text."""
        self._failure = failure
        self._closed.set()
        self._changed.set()

    def stop(self) -> None:
        """Release no further text."""
        self._stopped = True
        self.end()

    async def releases(self) -> AsyncIterator[guardrail_pb2.CheckOutputResponse]:
        """Yield the verdicts with visible text, in order. A block is the last verdict.

        Raises:
            ServiceError: Errors of the guard at once, errors of the model after the preceding text.
        """
        while True:
            await self._changed.wait()
            if self._stopped or not self._pending:
                break
            checked_at = time.monotonic()
            checked = await self._check()
            is_blocked = checked.verdict.action == guardrail_pb2.ACTION_BLOCK
            # A stop may arrive during the check. The verdict is then dropped, since the reader has
            # cancelled.
            if self._stopped:
                return
            if checked.release or is_blocked:
                yield checked
            if is_blocked:
                return
            # The first text is released without a pause. Readers wait for it most.
            if self._tail:
                await self._coalesce(time.monotonic() - checked_at)
        if self._failure:
            raise self._failure

    async def _check(self) -> guardrail_pb2.CheckOutputResponse:
        piece = self._pending[:MAX_PENDING_CHARACTERS]
        # `final` allows the guard to release all text. Only the last piece of a closed stream
        # qualifies, because any other piece could still be the beginning of a longer match.
        final = self._closed.is_set() and len(piece) == len(self._pending)
        # Clear the event before the call, not after: text that arrives during the check sets it
        # again.
        if not self._closed.is_set():
            self._changed.clear()
        checked = await self._guard.check_output(self._prompt, self._tail, piece, final=final)
        held = 0 if final else min(checked.held_characters, len(piece))
        # Without progress the same piece would be checked without end.
        if held == MAX_PENDING_CHARACTERS:
            raise UnavailableError(
                "the guard holds back more text than the limit", reason="GUARDRAIL_UNAVAILABLE"
            )
        # Held characters stay at the front of the pending text and are sent again with the next
        # piece.
        self._pending = self._pending[len(piece) - held :]
        self._tail = (self._tail + checked.release)[-MAX_TAIL_CHARACTERS:]
        return checked

    async def _coalesce(self, check_seconds: float) -> None:
        """Wait for more text, but not beyond the end of the stream.

        Args:
            check_seconds: Duration of the previous check.
        """
        pause = max(self._pause_seconds - check_seconds, PAUSE_PER_CHECK * check_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(
                min(pause, max(LONGEST_PAUSE_SECONDS, self._max_pause_seconds))
            ):
                await self._closed.wait()
        self._pause_seconds = min(PAUSE_GROWTH * self._pause_seconds, self._max_pause_seconds)
