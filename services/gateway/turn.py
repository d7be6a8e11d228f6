"""One turn: written by the chat path, read by whoever asks. It belongs to nobody's connection, nor
to one gateway's memory alone.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from enum import StrEnum
from typing import Protocol

from services.chassis.errors import ServiceError, UnavailableError
from services.chassis.identity import Caller
from services.gateway.events import (
    Completed,
    Event,
    FinishReason,
    Started,
    TextDelta,
    TurnEvent,
    Usage,
    sha256_of,
)
from services.gateway.quotas import Reservation, estimated_tokens, prompt_tokens
from services.gateway.request import DisconnectPolicy, TurnRequest


class Claim(StrEnum):
    """Who may answer a turn."""

    OURS = "ours"
    ELSEWHERE = "elsewhere"  # another gateway answers or has answered it
    UNKNOWN = "unknown"  # it was begun before, and nobody can say whether it still runs


class Announcer(Protocol):
    """Tells other gateways of our turns. Only `claim` takes time."""

    async def claim(self, turn: "Turn", *, in_doubt: bool) -> Claim:
        """Ask to answer a turn with a request_id; a turn without one is nobody else's. `in_doubt`:
        it was begun before, and session has no answer: another gateway that answers it now may have
        to be waited for.
        """

    def announce(self, turn: "Turn") -> None:
        """There is more of the turn, or its end."""

    def follow(self, turn: "Turn") -> AsyncGenerator[TurnEvent, None]:
        """Events of a turn that another gateway answers, to its end. Raises: ServiceError, that of
        the turn too.
        """


def moved_error() -> UnavailableError:
    """This process ends; the turn goes on and can be read through another one."""
    return UnavailableError(
        "go on through another gateway", reason="RESUME_ELSEWHERE", retry_seconds=0.1
    )


class Turn:
    """One turn."""

    def __init__(
        self,
        caller: Caller,
        request: TurnRequest,
        on_begin: Callable[["Turn"], None],
        announcer: Announcer,
    ) -> None:
        self.caller, self.request = caller, request
        self._on_begin, self._announcer = on_begin, announcer
        self.accepted_at = time.monotonic()
        # Two gateways that believe to answer the same message differ in it.
        self.attempt = uuid.uuid4().hex
        self.message_id = ""
        self.anew = False
        self.ended = self.mirrored = self.moved = False
        self.cancelled = False
        self.interruption: ServiceError | None = None
        self.superseded = False
        self.text = ""
        self.events: list[TurnEvent] = []
        self.error: ServiceError | None = None
        self.reservation = Reservation.NONE
        self.readers = 0
        self._changed = asyncio.Event()
        self._on_stop: Callable[[], object] | None = None
        self._on_text: Callable[[], None] | None = None
        self._on_doubt: Callable[[], None] | None = None

    @property
    def started(self) -> bool:
        """True once readers know ids and version."""
        return bool(self.events)

    @property
    def tokens(self) -> int:
        """What the answer has used: as the generator says, else an estimate from what was shown."""
        shown = [placed.event for placed in self.events]
        for event in shown:
            if isinstance(event, Usage):
                return 0 if event.cached else event.prompt_tokens + event.completion_tokens
        generated = any(isinstance(event, Started) and event.model_version for event in shown)
        return prompt_tokens(self.request) + estimated_tokens(self.text) if generated else 0

    def begin(self, message_id: str, *, anew: bool = False) -> None:
        """The answer has an id: from now on the turn can be found by it. `anew`: an earlier attempt
        may have shown something.
        """
        self.message_id, self.anew = message_id, anew
        self._on_begin(self)

    async def claim(self, *, in_doubt: bool) -> Claim:
        """Whether it is ours to answer; see `Announcer`."""
        if in_doubt and self._on_doubt:
            self._on_doubt()
        return await self._announcer.claim(self, in_doubt=in_doubt)

    async def mirror(self) -> None:
        """Show what another gateway answers. Raises: ServiceError: its error, or that it cannot be
        followed.
        """
        task = asyncio.current_task()
        self.mirrored = True
        self.reservation.settle(0)
        if task:
            self.when_stopped(task.cancel)
        async with aclosing(self._announcer.follow(self)) as events:
            async for placed in events:
                self._append(placed)
        self.ended = True
        self._wake()

    def publish(self, event: Event) -> None:
        """Append an event for all readers."""
        self._append(TurnEvent(len(self.events) + 1, self.message_id, event))

    def complete(self, reason: FinishReason) -> None:
        """The last event; readers end."""
        self.ended = True
        self.publish(Completed(reason, sha256_of(self.text)))

    def fail(self, error: ServiceError) -> None:
        """End with an error: after events of our own, Completed(FAILED) comes first."""
        if self.ended:
            return
        self.error = error
        if self.started and not self.mirrored:
            self.complete(FinishReason.FAILED)
        self.ended = True
        self._wake()

    def when_admitted(self, on_text: Callable[[], None], on_doubt: Callable[[], None]) -> None:
        """Call `on_text` at every piece of text, and `on_doubt` before another gateway may be
        waited for.
        """
        self._on_text, self._on_doubt = on_text, on_doubt

    def when_stopped(self, callback: Callable[[], object]) -> None:
        """Call back when the turn is stopped, at once if it is already."""
        self._on_stop = callback
        if self.cancelled or self.interruption:
            callback()

    def cancel(self) -> bool:
        """Stop generating because the caller wants it; True if the turn was running."""
        running = not self.ended
        self.cancelled = self.cancelled or running
        self._stop()
        return running

    def interrupt(self, error: ServiceError) -> None:
        """Stop generating although the caller wants the answer; readers get the error."""
        self.interruption = self.interruption or error
        self._stop()

    def supersede(self) -> None:
        """Another gateway answers this message: what we have is neither shown further nor stored."""
        self.superseded = True
        self.interrupt(
            UnavailableError(
                "another gateway answers this turn", reason="TURN_TAKEN_OVER", retry_seconds=1
            )
        )

    def hand_over(self) -> bool:
        """Send readers who can come back to another gateway; the turn goes on. True if there were
        any.
        """
        if self.ended or self.request.on_disconnect is DisconnectPolicy.CANCEL:
            return False
        self.moved = True
        self._wake()
        return bool(self.readers)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a reader; under CANCEL the last one who leaves a running turn stops it, of a
        mirrored one the mirroring.
        """
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1
            if not self.readers and not self.ended:
                if self.mirrored:
                    self._stop()
                elif self.request.on_disconnect is DisconnectPolicy.CANCEL:
                    self.cancel()

    async def events_after(self, sequence: int) -> AsyncGenerator[TurnEvent, None]:
        """Kept events after a sequence, then live ones.

        Raises:
            ServiceError: the turn failed; after its last event.
            UnavailableError: RESUME_ELSEWHERE, this process ends and the turn does not.
        """
        with self.reading():
            while True:
                while sequence < len(self.events):
                    sequence += 1
                    yield self.events[sequence - 1]
                if self.ended:
                    break
                if self.moved and self.started:
                    raise moved_error()
                await self._changed.wait()
        if self.error:
            raise self.error

    def _append(self, placed: TurnEvent) -> None:
        if isinstance(placed.event, TextDelta):
            self.text += placed.event.text
            if self._on_text:
                self._on_text()
        self.events.append(placed)
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if self.message_id and not self.mirrored:
            self._announcer.announce(self)

    def _stop(self) -> None:
        if self._on_stop and not self.ended:
            self._on_stop()
