"""The answer of one turn while it is written: what readers are shown, and what will be stored of
it.
"""

from dataclasses import dataclass, replace

from services.chassis.errors import UnavailableError
from services.gateway.answer_cache import CachedAnswer
from services.gateway.clock import TurnClock
from services.gateway.events import Enhanced, FinishReason, Prompt, Started, TextDelta, Verdict
from services.gateway.generation import Finished, Generation, Generator, Patience, Selected
from services.gateway.guard import Action, InputRuling, OutputGuard, OutputRuling
from services.gateway.holdback import HeldAnswer
from services.gateway.metrics import GUARD_VERDICTS
from services.gateway.sessions import Answer, Begun, StoredAnswer
from services.gateway.turn import Turn


@dataclass(frozen=True)
class Pace:
    """How often text is released, and how long the generator may be silent."""

    coalesce_seconds: float
    patience: Patience


class Writing:
    """Publishes the events of one turn; `answer` is the record so far, true also when a service
    fails midway.
    """

    def __init__(self, turn: Turn, begun: Begun, prompt: Prompt, clock: TurnClock) -> None:
        self._turn, self._begun, self._prompt, self._clock = turn, begun, prompt, clock
        self._record = Answer(begun.message_id)

    @property
    def answer(self) -> Answer:
        """The record with the text that was shown."""
        return replace(self._record, text=self._turn.text)

    def heed(self, ruling: InputRuling) -> bool:
        """True if the question may be answered; where it is blocked, the refusal is the answer."""
        self._clock.passed("guard_input")
        self._record = replace(self._record, policy_version=ruling.policy_version)
        if ruling.action is not Action.BLOCK:
            return True
        self._start(None)
        self._publish_verdict("input", ruling.action, ruling.category)
        self._publish_text(ruling.rejection_text)
        self._record = replace(
            self._record, finish_reason=FinishReason.INPUT_BLOCKED, guard_category=ruling.category
        )
        return False

    async def generate(self, generator: Generator, guard: OutputGuard, pace: Pace) -> None:
        """Let the model answer, and show what the guard releases.

        Raises:
            ServiceError: of generator or guard, or because this process ends.
        """
        held = HeldAnswer(guard, self._prompt.text, pace.coalesce_seconds)
        generation = Generation(held, self._start, pace.patience)
        async with generation.reading(generator.generate(self._turn.request, self._begun.context)):
            self._turn.when_stopped(generation.stop)
            async for ruling in held.releases():
                self._show(ruling)
                self._clock.first_text(generation.first_text_at)
        self._conclude(generation.finished, generation.text)

    def repeat(self, cached: CachedAnswer) -> None:
        """Show an answer that was written for the same question before."""
        self._start(cached.selected, cached=True)
        self._publish_text(cached.text)
        usage = replace(cached.usage, cached=True)
        self._record = replace(self._record, finish_reason=FinishReason.STOP, usage=usage)
        self._turn.publish(usage)

    def _start(self, selected: Selected | None, *, cached: bool = False) -> None:
        self._record = replace(self._record, selected=selected)
        started = Started(
            self._begun.conversation_id,
            self._begun.user_message_id,
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

    def _show(self, ruling: OutputRuling) -> None:
        if ruling.action is not Action.ALLOW:
            self._publish_verdict("output", ruling.action, ruling.category)
            self._record = replace(self._record, guard_category=ruling.category)
        self._publish_text(ruling.release)
        if ruling.action is Action.BLOCK:
            self._publish_text(
                f"\n\n{ruling.rejection_text}" if self._turn.text else ruling.rejection_text
            )
            self._record = replace(self._record, finish_reason=FinishReason.OUTPUT_BLOCKED)

    def _conclude(self, finished: Finished | None, written: str) -> None:
        if finished:
            # Cut or changed on its way it is not the model's answer any more, and its tokens are
            # another one's.
            sample = finished.sample if self._turn.text == written else None
            self._record = replace(self._record, usage=finished.usage, sample=sample)
        if self._record.finish_reason is FinishReason.OUTPUT_BLOCKED:
            pass
        elif self._turn.interruption:
            raise self._turn.interruption
        elif self._turn.cancelled or finished is None:
            self._record = replace(self._record, finish_reason=FinishReason.CANCELLED)
        else:
            self._record = replace(self._record, finish_reason=finished.finish_reason)
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


def replay(turn: Turn, begun: Begun, stored: StoredAnswer) -> None:
    """Show again what another turn with this request_id answered, before this process knew of it."""
    turn.publish(
        Started(
            begun.conversation_id,
            begun.user_message_id,
            stored.model_version,
            stored.arm,
            task=stored.task,
        )
    )
    if stored.text:
        turn.publish(TextDelta(stored.text))
    if stored.finish_reason is FinishReason.FAILED:
        turn.fail(
            UnavailableError("this turn failed when it was first sent", reason="TURN_FAILED_BEFORE")
        )
    else:
        turn.complete(stored.finish_reason)
