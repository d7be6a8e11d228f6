"""The answer of a turn in progress: stream of the generator, events for readers, record to store.

The generator is read in a separate task, so that the model is never blocked by a pending verdict.
Every silence of the generator is limited.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import DeadlineExceededError, UnavailableError
from services.contracts.chat import Arm
from services.contracts.wire import ACTIONS, FINISH_REASONS
from services.gateway.answering.answer_cache import CachedAnswer
from services.gateway.answering.battle import shown_version
from services.gateway.answering.output_guard import HeldAnswer, OutputGuard
from services.gateway.metrics import GUARD_VERDICTS
from services.gateway.turns.turn import Turn, TurnClock

GeneratorEvents = AsyncGenerator[generator_pb2.GenerateEvent, None]


@dataclass(frozen=True)
class AnswerTiming:
    """Interval between releases of text, and the longest silence of the generator.

    `first_text_seconds` applies before the first text, `idle_seconds` between two texts.
    """

    coalesce_seconds: float
    first_text_seconds: float
    idle_seconds: float


class AnswerWriter:
    """Publishes the events of one turn and keeps the record of the answer.

    The record is valid at any time, including after a service has failed midway.
    """

    def __init__(
        self,
        turn: Turn,
        begun: session_pb2.BeginTurnResponse,
        prompt: session_pb2.UserMessage,
        clock: TurnClock,
    ) -> None:
        self._turn, self._begun, self._prompt, self._clock = turn, begun, prompt, clock
        # None until a model has been selected.
        self.selected: generator_pb2.Selected | None = None
        self._record = session_pb2.FinishTurnRequest(
            assistant_message_id=begun.assistant_message_id,
            finish_reason=chat_pb2.FINISH_REASON_FAILED,
        )

    @property
    def answer(self) -> session_pb2.FinishTurnRequest:
        """The record, with the text that readers have seen."""
        self._record.text = self._turn.text
        return self._record

    def apply_input_verdict(self, checked: guardrail_pb2.CheckInputResponse) -> bool:
        """Apply the guard's verdict on the input.

        Returns:
            True if the model may answer. A blocked input is answered with the guard's rejection
            text.
        """
        self._clock.passed("guard_input")
        verdict = checked.verdict
        self._record.policy_version = verdict.policy_version
        if verdict.action != guardrail_pb2.ACTION_BLOCK:
            return True
        self._start(None)
        self._publish_verdict("input", verdict)
        self._publish_text(checked.rejection_text)
        self._record.finish_reason = chat_pb2.FINISH_REASON_INPUT_BLOCKED
        return False

    async def generate(
        self, events: GeneratorEvents, guard: OutputGuard, timing: AnswerTiming
    ) -> None:
        """Stream the model's answer and publish the text released by the guard.

        Raises:
            ServiceError: The generator or the guard failed, or this process is shutting down.
        """
        held = HeldAnswer(guard, self._prompt.text, timing.coalesce_seconds)
        generation = Generation(held, self._start, timing)
        async with generation.reading(events):
            self._turn.on_stop(generation.stop)
            async for checked in held.releases():
                action = checked.verdict.action
                if action != guardrail_pb2.ACTION_ALLOW:
                    self._publish_verdict("output", checked.verdict)
                self._publish_text(checked.release)
                if action == guardrail_pb2.ACTION_BLOCK:
                    rejection = checked.rejection_text
                    self._publish_text(f"\n\n{rejection}" if self._turn.text else rejection)
                    self._record.finish_reason = chat_pb2.FINISH_REASON_OUTPUT_BLOCKED
                self._clock.first_text(generation.first_text_at)
        self._conclude(generation.finished, generation.text)

    def repeat(self, cached: CachedAnswer) -> None:
        """Publish an answer from the cache."""
        self._start(cached.selected, cached=True)
        self._publish_text(cached.text)
        self._record.finish_reason = chat_pb2.FINISH_REASON_STOP
        self._record.usage.CopyFrom(cached.usage)
        self._record.usage.cached = True
        self._turn.usage = self._record.usage
        self._turn.publish(chat_pb2.ChatEvent(usage=self._record.usage))

    def _start(self, selected: generator_pb2.Selected | None, *, cached: bool = False) -> None:
        started = chat_pb2.Started(
            conversation_id=self._begun.conversation_id,
            user_message_id=self._begun.user_message_id,
            policy_version=self._record.policy_version,
        )
        if selected:
            self.selected = selected
            self._record.model_version, self._record.arm = selected.model_version, selected.arm
            self._record.assignment_probability = selected.assignment_probability
            self._record.temperature, self._record.top_p = selected.temperature, selected.top_p
            self._record.task = selected.task
            started.model_version, started.arm = shown_version(selected), selected.arm
            started.task, started.cached = selected.task, cached
        self._turn.publish(chat_pb2.ChatEvent(started=started))
        prompt = self._prompt
        if prompt.text != prompt.original_text:
            enhanced = chat_pb2.Enhanced(
                original_text=prompt.original_text, text=prompt.text, edits=prompt.edits
            )
            self._turn.publish(chat_pb2.ChatEvent(enhanced=enhanced))

    def _conclude(self, finished: generator_pb2.Finished | None, written: str) -> None:
        record = self._record
        if finished:
            record.usage.CopyFrom(finished.usage)
            # Only the unchanged text belongs to the sampled tokens. After a cut or a redaction the
            # sample must not be used for training.
            if finished.HasField("sample") and self._turn.text == written:
                record.sample.CopyFrom(finished.sample)
        # Order matters: a block wins over an interruption, an interruption over a cancel.
        if record.finish_reason == chat_pb2.FINISH_REASON_OUTPUT_BLOCKED:
            pass
        elif self._turn.interruption:
            raise self._turn.interruption
        elif self._turn.cancelled or finished is None:
            record.finish_reason = chat_pb2.FINISH_REASON_CANCELLED
        else:
            record.finish_reason = finished.finish_reason
        # A turn cancelled before the first event still needs a Started event.
        if not self._turn.started:
            self._start(None)
        if record.HasField("usage"):
            self._turn.usage = record.usage
            # The number of tokens of a text depends on the model.
            if record.arm != Arm.BATTLE:
                self._turn.publish(chat_pb2.ChatEvent(usage=record.usage))

    def _publish_text(self, text: str) -> None:
        if text:
            self._turn.publish(chat_pb2.ChatEvent(text_delta=chat_pb2.TextDelta(text=text)))

    def _publish_verdict(self, stage: str, verdict: guardrail_pb2.Verdict) -> None:
        action = ACTIONS[verdict.action]
        GUARD_VERDICTS.labels(stage, action, verdict.category).inc()
        self._record.guard_category, self._record.guard_score = verdict.category, verdict.score
        event = chat_pb2.Verdict(stage=stage, action=action, category=verdict.category)
        self._turn.publish(chat_pb2.ChatEvent(verdict=event))


def replay(turn: Turn, begun: session_pb2.BeginTurnResponse, stored: chat_pb2.Message) -> None:
    """Publish the answer of an earlier turn with the same request_id, unknown to this process."""
    started = chat_pb2.Started(
        conversation_id=begun.conversation_id,
        user_message_id=begun.user_message_id,
        model_version=shown_version(stored),
        arm=stored.arm,
        task=stored.task,
    )
    turn.publish(chat_pb2.ChatEvent(started=started))
    if stored.text:
        turn.publish(chat_pb2.ChatEvent(text_delta=chat_pb2.TextDelta(text=stored.text)))
    if stored.finish_reason == chat_pb2.FINISH_REASON_FAILED:
        turn.fail(
            UnavailableError("the first attempt of this turn failed", reason="TURN_FAILED_BEFORE")
        )
    else:
        turn.complete(FINISH_REASONS[stored.finish_reason])


class Generation:
    """Reader of one stream of the generator."""

    def __init__(
        self,
        held: HeldAnswer,
        on_selected: Callable[[generator_pb2.Selected], None],
        timing: AnswerTiming,
    ) -> None:
        self._held, self._on_selected, self._timing = held, on_selected, timing
        self._task: asyncio.Task[None] | None = None
        self.finished: generator_pb2.Finished | None = None
        self.first_text_at: float | None = None
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """Text written by the model so far, including text not yet released."""
        return "".join(self._texts)

    @asynccontextmanager
    async def reading(self, events: GeneratorEvents) -> AsyncIterator[None]:
        """Read until the block ends. Leaving the block early stops the model server."""
        self._task = asyncio.create_task(self._run(events))
        try:
            yield
        finally:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def stop(self) -> None:
        """Stop the model server now and release no further text."""
        if self._task:
            self._task.cancel()
        self._held.stop()

    async def _run(self, events: GeneratorEvents) -> None:
        try:
            async with aclosing(events):
                # `aclosing` stops the model server, even if this task is cancelled.
                while self.finished is None:
                    event = await self._next(events)
                    match event.WhichOneof("event"):
                        case "selected":
                            self._on_selected(event.selected)
                        case "text_delta":
                            self.first_text_at = self.first_text_at or time.monotonic()
                            self._texts.append(event.text_delta)
                            self._held.add(event.text_delta)
                        case "finished":
                            self.finished = event.finished
            self._held.end()
        except Exception as error:  # noqa: BLE001 - raised again where the answer is released
            self._held.end(error)

    async def _next(self, events: GeneratorEvents) -> generator_pb2.GenerateEvent:
        # The first text takes longer, because the model must read the whole prompt first.
        seconds = (
            self._timing.idle_seconds if self.first_text_at else self._timing.first_text_seconds
        )
        try:
            async with asyncio.timeout(seconds):
                return await anext(events)
        except TimeoutError as error:
            raise DeadlineExceededError(
                "the generator sent no event in time",
                reason="GENERATOR_SILENT",
                limit=f"{seconds:g} s",
            ) from error
        except StopAsyncIteration as error:
            raise UnavailableError(
                "the generator's stream ended early", reason="GENERATOR_UNAVAILABLE"
            ) from error
