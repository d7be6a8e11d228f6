"""The chat path of a turn, from the typed text to the stored answer.

Order: enhance, begin the turn, generate with output checks, store. The guard checks the typed text
beside the enhancer, and a changed text beside the beginning of the turn; generation waits for both
verdicts. A history kept by the client is checked as well, in all roles and before it is stored.
Start reading at `Chat.run`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import (
    DeadlineExceededError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from services.chassis.identity import bind_call, current_call
from services.chassis.telemetry import fields
from services.contracts.wire import FINISH_REASONS
from services.gateway.answering.answer import AnswerTiming, AnswerWriter, replay
from services.gateway.answering.answer_cache import AnswerCache
from services.gateway.answering.battle import battle_events, shown_version
from services.gateway.metrics import ANSWERS_NOT_STORED, ENHANCER_SKIPPED, TURNS
from services.gateway.peers.enhancer import EnhancerPeer
from services.gateway.peers.generator import GeneratorPeer
from services.gateway.peers.guardrail import GuardrailPeer
from services.gateway.peers.review import ReviewPeer
from services.gateway.peers.session import SessionPeer
from services.gateway.turns.request import Regenerate, TurnRequest
from services.gateway.turns.turn import Claim, Turn, TurnClock

log = logging.getLogger(__name__)

# Errors of a service that is temporarily unavailable. The same call may succeed later.
UNAVAILABLE = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 2.0


class Chat:
    """Runs the chat path for one turn at a time."""

    def __init__(
        self,
        enhancer: EnhancerPeer,
        guardrail: GuardrailPeer,
        session: SessionPeer,
        generator: GeneratorPeer,
        review: ReviewPeer,
        cache: AnswerCache,
        timing: AnswerTiming,
        finish_seconds: float,
    ) -> None:
        """Create the chat path. `finish_seconds` limits storing an answer, with all retries."""
        self._enhancer, self._guardrail = enhancer, guardrail
        self._session, self._generator, self._review = session, generator, review
        self._cache, self._timing, self._finish_seconds = cache, timing, finish_seconds

    async def run(self, turn: Turn) -> None:
        """Run one turn, from the typed text to the stored answer.

        Raises:
            ServiceError: A service failed before the answer began, or storing the answer failed.
        """
        clock = TurnClock(turn.accepted_at)
        clock.passed("admit")
        request = await self._with_version(turn.request)
        async with self._checked_prompt(request) as (prompt, verdict):
            clock.passed("enhance")
            # Later turns of a stored conversation check only their own text, so that a history is
            # stored after its verdict, and a refused history is not stored at all.
            if request.history and (await verdict).verdict.action == guardrail_pb2.ACTION_BLOCK:
                request = replace(request, history=())
            begun = await self._session.begin_turn(request, prompt)
            turn.begin(begun.assistant_message_id, restarted=begun.replayed)
            clock.passed("begin")
            stored = await self._stored(begun)
            claim = await turn.claim(in_doubt=begun.replayed and not stored)
            clock.passed("claim")

            if claim is Claim.ELSEWHERE:
                await turn.follow_remote()
            elif stored := stored or await self._stored(begun):
                replay(turn, begun, stored)
            elif claim is Claim.UNKNOWN:
                # Answering here too would give one message two texts.
                raise UnavailableError(
                    "this turn was begun before, and its state is unknown at present",
                    reason="TURN_STATE_UNKNOWN",
                    retry_seconds=1,
                )
            else:
                writer = AnswerWriter(turn, begun, prompt, clock)
                await self._answer(writer, turn, request, begun, verdict)

    async def _with_version(self, request: TurnRequest) -> TurnRequest:
        """Check the version that the request names. A model of a battle is resolved instead.

        Raises:
            NotFoundError: The version is not served, or the caller has no such battle.
            FailedPreconditionError: The battle has a vote.
            UnavailableError: The generator or the review service is unavailable.
        """
        if request.is_battle:
            version = await self._review.battle_version(request.model)
            return replace(request, battle_version=version)
        await self._generator.require_version(request.pinned_version)
        return request

    @asynccontextmanager
    async def _checked_prompt(
        self, request: TurnRequest
    ) -> AsyncIterator[
        tuple[session_pb2.UserMessage, asyncio.Task[guardrail_pb2.CheckInputResponse]]
    ]:
        """Yield the prompt as typed and as enhanced, and the task of the strictest verdict.

        Regeneration uses the stored prompt, whose texts are checked in one call.
        """
        if isinstance(request.action, Regenerate):
            prompt = await self._session.stored_prompt(request.action.message_id)
            check = self._guardrail.check_input(
                (prompt.original_text, prompt.text), request.history
            )
            async with concurrently(check) as verdict:
                yield prompt, verdict
            return
        typed = request.action
        check = self._guardrail.check_input((typed.text,), request.history)
        async with concurrently(check) as typed_verdict:
            prompt = typed if request.skip_enhancer else await self._enhanced(typed)
            if prompt.text == typed.text:
                yield prompt, typed_verdict
                return
            async with concurrently(self._strictest(typed_verdict, prompt.text)) as verdict:
                yield prompt, verdict

    async def _enhanced(self, typed: session_pb2.UserMessage) -> session_pb2.UserMessage:
        try:
            return await self._enhancer.enhance(typed.text)
        except UNAVAILABLE:
            # The enhancer is optional, unlike the guard, so the typed text is used. A counter makes
            # the outage visible.
            ENHANCER_SKIPPED.inc()
            return typed

    async def _strictest(
        self, typed_verdict: asyncio.Task[guardrail_pb2.CheckInputResponse], enhanced: str
    ) -> guardrail_pb2.CheckInputResponse:
        """Check the enhanced text and return its verdict, unless the typed text is refused."""
        async with concurrently(self._guardrail.check_input((enhanced,))) as enhanced_verdict:
            first = await typed_verdict
            if first.verdict.action == guardrail_pb2.ACTION_BLOCK:
                return first
            return await enhanced_verdict

    async def _stored(self, begun: session_pb2.BeginTurnResponse) -> chat_pb2.Message | None:
        """Return the stored answer if an earlier call with this request_id was answered."""
        if not begun.replayed:
            return None
        return await self._session.finished_answer(begun.assistant_message_id)

    async def _answer(
        self,
        writer: AnswerWriter,
        turn: Turn,
        request: TurnRequest,
        begun: session_pb2.BeginTurnResponse,
        verdict: asyncio.Task[guardrail_pb2.CheckInputResponse],
    ) -> None:
        """Generate and store the answer.

        Without a verdict on the input the model is not called (fail closed). The user's message
        stays stored in either case.
        """
        cache_key = None
        try:
            if writer.apply_input_verdict(await verdict):
                policy_version = writer.answer.policy_version
                cache_key = await self._cache.cache_key(
                    turn.caller.tenant, request, begun.context, policy_version
                )
                if cache_key and (cached := await self._cache.find(cache_key)):
                    writer.repeat(cached)
                else:
                    events = self._generator.generate(request, begun.context)
                    if request.is_battle:
                        events = battle_events(events)
                    await writer.generate(events, self._guardrail, self._timing)
        except ServiceError as error:
            # Readers get the error at once; the text shown so far is stored.
            turn.fail(error)
            # An answer without any visible text stays open, so that a retry with the same
            # request_id can still answer the turn.
            if not turn.superseded and (turn.started or not turn.request.request_id):
                answer = writer.answer
                answer.finish_reason = chat_pb2.FINISH_REASON_FAILED
                await self._store(answer)
            return
        answer = writer.answer
        await self._store(answer)
        turn.complete(FINISH_REASONS[answer.finish_reason])
        if cache_key:
            await self._cache.store(cache_key, answer, writer.selected)

    async def _store(self, answer: session_pb2.FinishTurnRequest) -> None:
        """Store the answer and retry while the session service is unavailable or restarts.

        Raises:
            UnavailableError: The session service did not return in time.
            ServiceError: The session service refused, for example because the conversation was
                deleted.
        """
        # The metrics may be public.
        version = shown_version(answer)
        TURNS.labels(FINISH_REASONS[answer.finish_reason], version, answer.arm).inc()
        # The turn may have ended because of its own deadline, so storing must not inherit that
        # deadline.
        bind_call(replace(current_call(), deadline=None))
        give_up_at = time.monotonic() + self._finish_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._session.finish_turn(answer)
            except UNAVAILABLE as error:
                if time.monotonic() + pause >= give_up_at:
                    _report_not_stored(answer, error)
                    raise UnavailableError(
                        "the answer was shown but not stored: the session service is unavailable",
                        reason="ANSWER_NOT_STORED",
                    ) from error
            except ServiceError as error:
                _report_not_stored(answer, error)
                raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _report_not_stored(answer: session_pb2.FinishTurnRequest, error: ServiceError) -> None:
    ANSWERS_NOT_STORED.inc()
    log.error(
        "answer not stored",
        extra=fields(message_id=answer.assistant_message_id, reason=error.reason),
    )


@asynccontextmanager
async def concurrently(
    check: Coroutine[None, None, guardrail_pb2.CheckInputResponse],
) -> AsyncIterator[asyncio.Task[guardrail_pb2.CheckInputResponse]]:
    """Run a coroutine during the block and cancel the task when the block ends."""
    task = asyncio.create_task(check)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
