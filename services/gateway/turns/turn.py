"""One turn, independent of the connection that began it: state, events, clock and trace span.

The chat path writes the events. Any number of readers, in this process or in another gateway, can
follow them. The span covers the whole life of a turn, which may be longer than the call that began
it, and connects message id and trace id. Attributes are ids, versions and reasons, never text of
users.
"""

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager, nullcontext
from dataclasses import replace
from enum import StrEnum
from typing import Any, Protocol

from opentelemetry.trace import Tracer, set_span_in_context
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ServiceError, UnavailableError
from services.chassis.identity import Caller, bind_call, current_call
from services.chassis.telemetry import fields
from services.contracts.chat import FinishReason
from services.contracts.wire import FINISH_REASON_NUMBERS, FINISH_REASONS
from services.gateway.metrics import ADDED_SECONDS, STAGE_SECONDS, TTFT_SECONDS
from services.gateway.quotas.quotas import Reservation, estimated_tokens, prompt_tokens
from services.gateway.turns.request import DisconnectPolicy, TurnRequest

log = logging.getLogger(__name__)


class Claim(StrEnum):
    """Result of claiming a turn: the gateway that may answer."""

    OURS = "ours"
    ELSEWHERE = "elsewhere"  # another gateway answers the turn or has answered
    UNKNOWN = "unknown"  # begun before; the state of the other gateway is unknown


class Announcer(Protocol):
    """Announces local turns to other gateways. Only `claim` may take time."""

    async def claim(self, turn: "Turn", *, in_doubt: bool) -> Claim:
        """Claim a turn with a request_id. A turn without request_id is always local.

        Args:
            turn: The turn to be answered.
            in_doubt: The turn was begun before and the session service has no answer. Another
                gateway may be answering and may have to be waited for.
        """

    def announce(self, turn: "Turn") -> None:
        """Announce new events or the end of the turn."""

    def follow(self, turn: "Turn") -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        """Yield the events of a turn that another gateway answers, until the end.

        Raises:
            ServiceError: The turn failed or cannot be followed.
        """


def resume_elsewhere_error() -> UnavailableError:
    """Return the error for readers of a draining process. The turn itself continues."""
    return UnavailableError(
        "resume through another gateway", reason="RESUME_ELSEWHERE", retry_seconds=0.1
    )


class Turn:
    """State and events of one turn."""

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
        # Distinguishes two gateways that both believe to answer the same message.
        self.attempt = uuid.uuid4().hex
        self.message_id = ""
        self.restarted = False
        self.ended = self.following = self.handed_over = False
        self.cancelled = False
        self.interruption: ServiceError | None = None
        self.superseded = False
        self.text = ""
        self.events: list[chat_pb2.ChatEvent] = []
        self.error: ServiceError | None = None
        # Token counts of the generator; None before the end of the answer.
        self.usage: chat_pb2.Usage | None = None
        self.reservation = Reservation.NONE
        self.readers = 0
        # Counts a reader beyond the one that began the turn, which the limits of turns count.
        self.count_reader: Callable[[], AbstractContextManager[None]] = nullcontext
        self._was_read = False
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
        """Tokens used by the answer, from the generator or estimated from the visible text."""
        if usage := self.usage:
            return 0 if usage.cached else usage.prompt_tokens + usage.completion_tokens
        generated = any(event.started.arm for event in self.events)
        return prompt_tokens(self.request) + estimated_tokens(self.text) if generated else 0

    def begin(self, message_id: str, *, restarted: bool = False) -> None:
        """Set the id of the answer, so that the turn can be found.

        Args:
            message_id: Id of the answer.
            restarted: An earlier attempt may have shown text.
        """
        self.message_id, self.restarted = message_id, restarted
        self._on_begin(self)

    async def claim(self, *, in_doubt: bool) -> Claim:
        """Claim the turn for this gateway. See `Announcer.claim`."""
        if in_doubt and self._on_doubt:
            self._on_doubt()
        return await self._announcer.claim(self, in_doubt=in_doubt)

    async def follow_remote(self) -> None:
        """Publish the events of the gateway that answers this turn.

        Raises:
            ServiceError: The turn failed, or the other gateway cannot be followed.
        """
        task = asyncio.current_task()
        self.following = True
        # The other gateway pays for the tokens, so the local reservation is returned.
        self.reservation.settle(0)
        if task:
            self.on_stop(task.cancel)
        async with aclosing(self._announcer.follow(self)) as events:
            async for event in events:
                self._append(event)
        self.ended = True
        self._wake()

    def publish(self, event: chat_pb2.ChatEvent) -> None:
        """Number an event and append it for all readers. Sequences count from 1 within a turn."""
        event.sequence, event.message_id = len(self.events) + 1, self.message_id
        self._append(event)

    def complete(self, reason: FinishReason) -> None:
        """Publish the last event and end all readers."""
        self.ended = True
        completed = chat_pb2.Completed(
            finish_reason=FINISH_REASON_NUMBERS[reason],
            text_sha256=hashlib.sha256(self.text.encode()).hexdigest(),
        )
        self.publish(chat_pb2.ChatEvent(completed=completed))

    def fail(self, error: ServiceError) -> None:
        """End the turn with an error. Visible local text is first closed by Completed(FAILED)."""
        if self.ended:
            return
        self.error = error
        if self.started and not self.following:
            self.complete(FinishReason.FAILED)
        self.ended = True
        self._wake()

    def set_admission_callbacks(
        self, on_text: Callable[[], None], on_doubt: Callable[[], None]
    ) -> None:
        """Set the callbacks of the admission control.

        Args:
            on_text: Called for every piece of text.
            on_doubt: Called before waiting for another gateway.
        """
        self._on_text, self._on_doubt = on_text, on_doubt

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Set the callback for a stop. Calls back at once if the turn is already stopped."""
        self._on_stop = callback
        if self.cancelled or self.interruption:
            callback()

    def cancel(self) -> bool:
        """Stop generating at the caller's request. Returns True if the turn was running."""
        running = not self.ended
        # A cancel after the end must not change the recorded finish reason.
        self.cancelled = self.cancelled or running
        self._stop()
        return running

    def interrupt(self, error: ServiceError) -> None:
        """Stop generating for an internal reason. Readers receive the error."""
        # The first reason counts. Later ones are consequences.
        self.interruption = self.interruption or error
        self._stop()

    def supersede(self) -> None:
        """Give up the turn to another gateway. Local text is neither shown further nor stored."""
        self.superseded = True
        self.interrupt(
            UnavailableError(
                "another gateway answers this turn", reason="TURN_TAKEN_OVER", retry_seconds=1
            )
        )

    def hand_over(self) -> bool:
        """Send readers to another gateway while the turn continues.

        Readers under DisconnectPolicy.CANCEL cannot come back and stay. Returns True if readers
        moved.
        """
        if self.ended or self.request.on_disconnect is DisconnectPolicy.CANCEL:
            return False
        self.handed_over = True
        self._wake()
        return bool(self.readers)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count a reader for the duration of the block.

        When the last reader leaves, a running turn stops under DisconnectPolicy.CANCEL. A followed
        turn only stops being followed.

        Raises:
            QuotaError: The user or the tenant has too many readers.
        """
        count_reader = self.count_reader if self._was_read else nullcontext
        self._was_read = True
        with count_reader():
            self.readers += 1
            try:
                yield
            finally:
                self.readers -= 1
                if not self.readers and not self.ended:
                    if self.following:
                        self._stop()
                    elif self.request.on_disconnect is DisconnectPolicy.CANCEL:
                        self.cancel()

    async def events_after(self, sequence: int) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        """Yield recorded events after a sequence, then live events.

        Raises:
            ServiceError: The turn failed. Raised after the last event.
            QuotaError: The user or the tenant has too many readers.
            UnavailableError: RESUME_ELSEWHERE if this process is draining and the turn continues.
        """
        with self.reading():
            while True:
                while sequence < len(self.events):
                    sequence += 1
                    yield self.events[sequence - 1]
                if self.ended:
                    break
                # Before the first event the client has no id for resuming, so the reader stays.
                if self.handed_over and self.started:
                    raise resume_elsewhere_error()
                await self._changed.wait()
        if self.error:
            raise self.error

    def _append(self, event: chat_pb2.ChatEvent) -> None:
        if event.HasField("text_delta"):
            self.text += event.text_delta.text
            if self._on_text:
                self._on_text()
        self.events.append(event)
        self._wake()

    def _wake(self) -> None:
        # Replace the event instead of clearing it, so that each waiting reader wakes exactly once
        # and a reader that starts to wait now sees only later changes.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        if self.message_id and not self.following:
            self._announcer.announce(self)

    def _stop(self) -> None:
        if self._on_stop and not self.ended:
            self._on_stop()


class TurnClock:
    """Measures one turn from the time of acceptance."""

    def __init__(self, accepted_at: float) -> None:
        self._accepted_at = self._last = accepted_at
        self._running = True

    def passed(self, stage: str) -> None:
        """Record the duration of the stage that ends now."""
        now = time.monotonic()
        STAGE_SECONDS.labels(stage).observe(now - self._last)
        self._last = now

    def first_text(self, generated_at: float | None) -> None:
        """Record the release of the first text. Later calls have no effect.

        Args:
            generated_at: Monotonic time of the generator's first text, None before.
        """
        if not self._running or generated_at is None:
            return
        self._running = False
        now = time.monotonic()
        generate_seconds = generated_at - self._last
        STAGE_SECONDS.labels("generate").observe(generate_seconds)
        STAGE_SECONDS.labels("guard_output").observe(now - generated_at)
        TTFT_SECONDS.observe(now - self._accepted_at)
        ADDED_SECONDS.observe(now - self._accepted_at - generate_seconds)


Run = Callable[[Turn], Coroutine[Any, Any, None]]


def traced(run: Run, tracer: Tracer) -> Run:
    """Wrap `run` in a span that is the parent of all calls of the turn."""

    async def run_traced(turn: Turn) -> None:
        span = tracer.start_span("turn", context=current_call().trace)
        bind_call(replace(current_call(), trace=set_span_in_context(span)))
        reason = ""
        try:
            await run(turn)
        except ServiceError as error:
            reason = error.reason
            raise
        finally:
            # Also set for failures before the first event.
            outcome = {"message_id": turn.message_id, "reason": reason}
            for event in turn.events:
                if event.HasField("started"):
                    outcome |= {"version": event.started.model_version, "arm": event.started.arm}
                if event.HasField("completed"):
                    outcome["reason"] = reason or str(FINISH_REASONS[event.completed.finish_reason])
            span.set_attributes({f"thumbwheel.{name}": value for name, value in outcome.items()})
            span.end()
            milliseconds = round((time.monotonic() - turn.accepted_at) * 1_000, 1)
            log.info("turn ended", extra=fields(**outcome, ms=milliseconds))

    return run_traced
