"""The answer of a turn in progress: events for readers, and the record to be stored."""

from dataclasses import dataclass, replace

from services.chassis.errors import UnavailableError
from services.contracts.chat import Action, Finished, FinishReason, Prompt
from services.gateway.answering.answer_cache import CachedAnswer
from services.gateway.answering.generation import Generation, Generator, Selected, Timeouts
from services.gateway.answering.guard import InputVerdict, OutputGuard, OutputVerdict
from services.gateway.answering.holdback import HeldAnswer
from services.gateway.answering.sessions import Answer, StartedTurn, StoredAnswer
from services.gateway.metrics import GUARD_VERDICTS
from services.gateway.turns.clock import TurnClock
from services.gateway.turns.events import Enhanced, Started, TextDelta, Verdict
from services.gateway.turns.turn import Turn


@dataclass(frozen=True)
class AnswerTiming:
    """Interval between releases of text, and the generator's timeouts."""

    coalesce_seconds: float
    timeouts: Timeouts


class AnswerWriter:
    """Publishes the events of one turn and keeps the record of the answer.

    The record is valid at any time, including after a service has failed midway.
    """

    def __init__(
        self, turn: Turn, started_turn: StartedTurn, prompt: Prompt, clock: TurnClock
    ) -> None:
        self._turn, self._started_turn, self._prompt, self._clock = (
            turn,
            started_turn,
            prompt,
            clock,
        )
        self._record = Answer(started_turn.message_id)

    @property
    def answer(self) -> Answer:
        """The record, with the text that readers have seen."""
        return replace(self._record, text=self._turn.text)

    def apply_input_verdict(self, verdict: InputVerdict) -> bool:
        """Apply the guard's verdict on the input.

        Returns:
            True if the model may answer. A blocked input is answered with the guard's rejection
            text.
        """
        self._clock.passed("guard_input")
        self._record = replace(self._record, policy_version=verdict.policy_version)
        if verdict.action is not Action.BLOCK:
            return True
        self._start(None)
        self._publish_verdict("input", verdict.action, verdict.category)
        self._publish_text(verdict.rejection_text)
        self._record = replace(
            self._record, finish_reason=FinishReason.INPUT_BLOCKED, guard_category=verdict.category
        )
        return False

    async def generate(
        self, generator: Generator, guard: OutputGuard, timing: AnswerTiming
    ) -> None:
        """Stream the model's answer and publish the text released by the guard.

        Raises:
            ServiceError: The generator or the guard failed, or this process is shutting down.
        """
        held = HeldAnswer(guard, self._prompt.text, timing.coalesce_seconds)
        generation = Generation(held, self._start, timing.timeouts)
        async with generation.reading(
            generator.generate(self._turn.request, self._started_turn.context)
        ):
            self._turn.on_stop(generation.stop)
            async for verdict in held.releases():
                self._show(verdict)
                self._clock.first_text(generation.first_text_at)
        self._conclude(generation.finished, generation.text)

    def repeat(self, cached: CachedAnswer) -> None:
        """Publish an answer from the cache."""
        self._start(cached.selected, cached=True)
        self._publish_text(cached.text)
        usage = replace(cached.usage, cached=True)
        self._record = replace(self._record, finish_reason=FinishReason.STOP, usage=usage)
        self._turn.publish(usage)

    def _start(self, selected: Selected | None, *, cached: bool = False) -> None:
        self._record = replace(self._record, selected=selected)
        started = Started(
            self._started_turn.conversation_id,
            self._started_turn.user_message_id,
            policy_version=self._record.policy_version,
        )
        if selected:
            started = replace(
                started,
                model_version=selected.model_version,
                arm=selected.arm,
                task=selected.task,
                cached=cached,
            )
        self._turn.publish(started)
        if self._prompt.changed:
            self._turn.publish(Enhanced(self._prompt))

    def _show(self, verdict: OutputVerdict) -> None:
        if verdict.action is not Action.ALLOW:
            self._publish_verdict("output", verdict.action, verdict.category)
            self._record = replace(self._record, guard_category=verdict.category)
        self._publish_text(verdict.release)
        if verdict.action is Action.BLOCK:
            self._publish_text(
                f"\n\n{verdict.rejection_text}" if self._turn.text else verdict.rejection_text
            )
            self._record = replace(self._record, finish_reason=FinishReason.OUTPUT_BLOCKED)

    def _conclude(self, finished: Finished | None, written: str) -> None:
        if finished:
            # Only the unchanged text belongs to the sampled tokens. After a cut or a redaction the
            # sample must not be used for training.
            sample = finished.sample if self._turn.text == written else None
            self._record = replace(self._record, usage=finished.usage, sample=sample)
        # Order matters: a block wins over an interruption, an interruption over a cancel.
        if self._record.finish_reason is FinishReason.OUTPUT_BLOCKED:
            pass
        elif self._turn.interruption:
            raise self._turn.interruption
        elif self._turn.cancelled or finished is None:
            self._record = replace(self._record, finish_reason=FinishReason.CANCELLED)
        else:
            self._record = replace(self._record, finish_reason=finished.finish_reason)
        # A turn cancelled before the first event still needs a Started event.
        if not self._turn.started:
            self._start(None)
        if self._record.usage:
            self._turn.publish(self._record.usage)

    def _publish_text(self, text: str) -> None:
        if text:
            self._turn.publish(TextDelta(text))

    def _publish_verdict(self, stage: str, action: Action, category: str) -> None:
        GUARD_VERDICTS.labels(stage, action, category).inc()
        self._turn.publish(Verdict(stage, action, category))


def replay(turn: Turn, started_turn: StartedTurn, stored: StoredAnswer) -> None:
    """Publish the answer of an earlier turn with the same request_id, unknown to this process."""
    turn.publish(
        Started(
            started_turn.conversation_id,
            started_turn.user_message_id,
            stored.model_version,
            stored.arm,
            task=stored.task,
        )
    )
    if stored.text:
        turn.publish(TextDelta(stored.text))
    if stored.finish_reason is FinishReason.FAILED:
        turn.fail(
            UnavailableError("the first attempt of this turn failed", reason="TURN_FAILED_BEFORE")
        )
    else:
        turn.complete(stored.finish_reason)
