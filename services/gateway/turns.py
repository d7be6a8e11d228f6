"""Running turns. A turn is a task of its own: a client that goes away is not a cancel, and one that comes back misses nothing.

Events are kept in memory for a while after the end, so that any number of readers can resume after a sequence.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from services.chassis.admission import Admission, Ticket
from services.chassis.errors import (
    AlreadyExistsError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from services.chassis.identity import Caller, bind_call, current_call
from services.chassis.telemetry import fields
from services.gateway.events import Completed, Event, FinishReason, TextDelta, TurnEvent, sha256_of
from services.gateway.metrics import TURNS_RUNNING
from services.gateway.request import DisconnectPolicy, TurnRequest, wrong

log = logging.getLogger(__name__)

# At shutdown: what session gets to take the answers that were stopped.
STORE_SECONDS = 3.0


class Turn:
    """One turn: written by the chat path, read by whoever asks."""

    def __init__(
        self, caller: Caller, request: TurnRequest, on_begin: Callable[["Turn"], None], on_text: Callable[[], None]
    ) -> None:
        self.caller, self.request = caller, request
        self._on_begin, self._on_text = on_begin, on_text
        self.accepted_at = time.monotonic()
        self.message_id = ""
        self.ended = False
        self.cancelled, self.interrupted = False, False
        self.text = ""
        self.events: list[TurnEvent] = []
        self.error: ServiceError | None = None
        self.readers = 0
        self._changed = asyncio.Event()
        self._on_stop: Callable[[], None] | None = None

    @property
    def started(self) -> bool:
        """True once readers know ids and version."""
        return bool(self.events)

    def begin(self, message_id: str) -> None:
        """The answer has an id: from now on the turn can be found by it."""
        self.message_id = message_id
        self._on_begin(self)

    def publish(self, event: Event) -> None:
        """Append an event for all readers."""
        if isinstance(event, TextDelta):
            self.text += event.text
            self._on_text()
        self.events.append(TurnEvent(len(self.events) + 1, self.message_id, event))
        self._wake()

    def complete(self, reason: FinishReason) -> None:
        """The last event; readers end."""
        self.ended = True
        self.publish(Completed(reason, sha256_of(self.text)))

    def fail(self, error: ServiceError) -> None:
        """End with an error: after events, Completed(FAILED) comes first."""
        if self.ended:
            return
        self.error = error
        if self.started:
            self.complete(FinishReason.FAILED)
        self.ended = True
        self._wake()

    def when_stopped(self, callback: Callable[[], None]) -> None:
        """Call back when the turn is stopped, at once if it is already."""
        self._on_stop = callback
        if self.cancelled or self.interrupted:
            callback()

    def cancel(self) -> bool:
        """Stop generating because the caller wants it; True if the turn was running."""
        running = not self.ended
        self.cancelled = self.cancelled or running
        self._stop()
        return running

    def interrupt(self) -> None:
        """Stop generating because this process ends."""
        self.interrupted = True
        self._stop()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a reader; under CANCEL the last one who leaves a running turn stops it."""
        self.readers += 1
        try:
            yield
        finally:
            self.readers -= 1
            if not self.readers and not self.ended and self.request.on_disconnect is DisconnectPolicy.CANCEL:
                self.cancel()

    async def events_after(self, sequence: int) -> AsyncGenerator[TurnEvent, None]:
        """Kept events after a sequence, then live ones.

        Raises:
            ServiceError: the turn failed; after its last event.
        """
        with self.reading():
            while True:
                while sequence < len(self.events):
                    sequence += 1
                    yield self.events[sequence - 1]
                if self.ended:
                    break
                await self._changed.wait()
        if self.error:
            raise self.error

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _stop(self) -> None:
        if self._on_stop and not self.ended:
            self._on_stop()


@dataclass(frozen=True)
class TurnLimits:
    """What the register keeps and allows a user."""

    max_turns_per_user: int
    turn_seconds: float
    keep_seconds: float
    max_kept_characters: int


class Turns:
    """The register of turns: running ones, and ended ones whose events are still kept."""

    def __init__(
        self, run: Callable[[Turn], Coroutine[Any, Any, None]], limits: TurnLimits, admission: Admission
    ) -> None:
        self._run, self._limits, self._admission = run, limits, admission
        self._tasks: dict[asyncio.Task[None], Turn] = {}
        self._by_message: dict[str, Turn] = {}
        self._by_request: dict[tuple[str, str], Turn] = {}
        # Ended turns, oldest first, with the timers that forget them.
        self._kept: dict[Turn, asyncio.TimerHandle] = {}
        self._kept_characters = 0
        self._closing = False

    def start(self, caller: Caller, request: TurnRequest) -> Turn:
        """Run a turn, or return the one that this request_id began.

        Raises:
            AlreadyExistsError: the request_id was used with another payload.
            ResourceExhaustedError: too many turns run.
        """
        key = (caller.key, request.request_id)
        if request.request_id and (known := self._by_request.get(key)):
            if known.request != request:
                raise AlreadyExistsError(
                    "request_id was used with another payload; the first stands",
                    field="request_id",
                    limit="one payload a request_id",
                )
            return known
        ticket = self._admit(caller)
        turn = Turn(caller, request, self._index, lambda: self._admission.answered(ticket))
        if request.request_id:
            self._by_request[key] = turn
        self._tasks[asyncio.create_task(self._drive(turn, ticket))] = turn
        return turn

    def find(self, caller: Caller, message_id: str) -> Turn | None:
        """The caller's turn, if its events are kept."""
        turn = self._by_message.get(message_id)
        return turn if turn and turn.caller == caller else None

    def resume(self, caller: Caller, message_id: str, after_sequence: int) -> Turn:
        """The caller's turn, for a reader who has its events up to a sequence.

        Raises:
            NotFoundError: another user's, unknown, or no longer kept.
            InvalidArgumentError: the sequence was never sent.
        """
        turn = self.find(caller, message_id)
        if turn is None or not turn.started:
            raise NotFoundError("no events are kept of this message", field="message_id")
        if after_sequence > len(turn.events):
            raise wrong("after_sequence", f"at most the last sequence, {len(turn.events)}")
        return turn

    async def close(self, drain_seconds: float) -> None:
        """Let no new turn in, give running ones time to end, stop the rest, and wait until what was shown is stored."""
        self._closing = True
        for timer in self._kept.values():
            timer.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_seconds)
        for turn in self._tasks.values():
            turn.interrupt()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STORE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _index(self, turn: Turn) -> None:
        self._by_message[turn.message_id] = turn

    def _admit(self, caller: Caller) -> Ticket:
        if self._closing:
            raise UnavailableError("the gateway is shutting down", reason="SHUTTING_DOWN", retry_seconds=2)
        if sum(turn.caller == caller for turn in self._tasks.values()) >= self._limits.max_turns_per_user:
            raise ResourceExhaustedError(
                "too many turns of this user run",
                limit=f"{self._limits.max_turns_per_user} turns at once of a user",
                retry_seconds=1,
            )
        return self._admission.enter("turn")

    async def _drive(self, turn: Turn, ticket: Ticket) -> None:
        # The turn outlives the call that began it, and so has a deadline of its own.
        bind_call(replace(current_call(), deadline=time.monotonic() + self._limits.turn_seconds))
        TURNS_RUNNING.inc()
        try:
            await self._run(turn)
        except ServiceError as error:
            turn.fail(error)
        except Exception:
            # The last line of defence, as in the chassis: readers must not wait for ever.
            log.exception("turn failed", extra=fields(message_id=turn.message_id))
            turn.fail(ServiceError("internal error"))
        finally:
            TURNS_RUNNING.dec()
            self._admission.leave(ticket)
            if not turn.ended:
                turn.fail(UnavailableError("the gateway is shutting down", reason="SHUTTING_DOWN"))
            self._retire(turn)

    def _retire(self, turn: Turn) -> None:
        for task in [task for task, running in self._tasks.items() if running is turn]:
            del self._tasks[task]
        if not turn.started:
            # Nothing was shown: the same request_id may try again.
            self._forget(turn)
            return
        self._kept[turn] = asyncio.get_running_loop().call_later(self._limits.keep_seconds, self._drop, turn)
        self._kept_characters += len(turn.text)
        while self._kept_characters > self._limits.max_kept_characters and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _drop(self, turn: Turn) -> None:
        if timer := self._kept.pop(turn, None):
            timer.cancel()
            self._kept_characters -= len(turn.text)
            self._forget(turn)

    def _forget(self, turn: Turn) -> None:
        key = (turn.caller.key, turn.request.request_id)
        if self._by_request.get(key) is turn:
            del self._by_request[key]
        if self._by_message.get(turn.message_id) is turn:
            del self._by_message[turn.message_id]
