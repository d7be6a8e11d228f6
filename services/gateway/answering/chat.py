"""The chat path of a turn, from the typed text to the stored answer.

Order: enhance, check the input, begin the turn (at the same time), generate with output checks,
store.
The guard checks the typed text and the enhanced text, so the enhancer runs first. A history kept by
the client is checked as well. Start reading at `Chat.run`.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from services.chassis.errors import ServiceError, UnavailableError
from services.contracts.chat import FinishReason
from services.gateway.answering.answer_cache import AnswerCache
from services.gateway.answering.answer_store import AnswerStore
from services.gateway.answering.answer_writer import AnswerTiming, AnswerWriter, replay
from services.gateway.answering.generation import Generator
from services.gateway.answering.guard import Guard, InputVerdict
from services.gateway.answering.prompts import Enhancer, Prompts
from services.gateway.answering.sessions import Answer, Sessions, StartedTurn, StoredAnswer
from services.gateway.turns.clock import TurnClock
from services.gateway.turns.turn import Claim, Turn


@dataclass(frozen=True)
class Peers:
    """Clients of the services that a turn passes through."""

    enhancer: Enhancer
    guard: Guard
    sessions: Sessions
    generator: Generator


class Chat:
    """Runs the chat path for one turn at a time."""

    def __init__(
        self, peers: Peers, timing: AnswerTiming, answer_store: AnswerStore, cache: AnswerCache
    ) -> None:
        self._prompts = Prompts(peers.enhancer, peers.sessions)
        self._guard, self._sessions, self._generator = peers.guard, peers.sessions, peers.generator
        self._timing, self._answer_store, self._cache = timing, answer_store, cache

    async def run(self, turn: Turn) -> None:
        """Run one turn, from the typed text to the stored answer.

        Raises:
            ServiceError: A service failed before the answer began, or storing the answer failed.
        """
        clock = TurnClock(turn.accepted_at)
        clock.passed("admit")
        await self._generator.require_version(turn.request.pinned_version)

        prompt = await self._prompts.read(turn.request)
        clock.passed("enhance")

        async with concurrently(
            self._guard.check_input((*prompt.texts, *turn.request.history_user_texts))
        ) as verdict:
            started_turn = await self._sessions.begin_turn(turn.request, prompt)
            turn.begin(started_turn.message_id, restarted=started_turn.replayed)
            clock.passed("begin")
            stored = await self._stored(started_turn)
            claim = await turn.claim(in_doubt=started_turn.replayed and not stored)
            clock.passed("claim")

            if claim is Claim.ELSEWHERE:
                await turn.follow_remote()
            elif stored := stored or await self._stored(started_turn):
                replay(turn, started_turn, stored)
            elif claim is Claim.UNKNOWN:
                # Answering here too would give one message two texts.
                raise UnavailableError(
                    "this turn was begun before, and its state is unknown at present",
                    reason="TURN_STATE_UNKNOWN",
                    retry_seconds=1,
                )
            else:
                await self._answer(
                    AnswerWriter(turn, started_turn, prompt, clock), turn, started_turn, verdict
                )

    async def _stored(self, started_turn: StartedTurn) -> StoredAnswer | None:
        """Return the stored answer if an earlier call with this request_id was answered."""
        return (
            await self._sessions.finished_answer(started_turn.message_id)
            if started_turn.replayed
            else None
        )

    async def _answer(
        self,
        writer: AnswerWriter,
        turn: Turn,
        started_turn: StartedTurn,
        verdict: asyncio.Task[InputVerdict],
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
                    turn.caller.tenant, turn.request, started_turn.context, policy_version
                )
                if cache_key and (cached := await self._cache.find(cache_key)):
                    writer.repeat(cached)
                else:
                    await writer.generate(self._generator, self._guard, self._timing)
        except ServiceError as error:
            await self._fail(turn, writer.answer, error)
            return
        await self._answer_store.store(writer.answer)
        turn.complete(writer.answer.finish_reason)
        if cache_key:
            await self._cache.store(cache_key, writer.answer)

    async def _fail(self, turn: Turn, answer: Answer, error: ServiceError) -> None:
        """Report the error to readers at once and store the text shown so far."""
        turn.fail(error)
        if turn.superseded:
            return
        # An answer without any visible text stays open, so that a retry with the same request_id
        # can still answer the turn.
        if turn.started or not turn.request.request_id:
            await self._answer_store.store(replace(answer, finish_reason=FinishReason.FAILED))


@asynccontextmanager
async def concurrently(
    check: Coroutine[None, None, InputVerdict],
) -> AsyncIterator[asyncio.Task[InputVerdict]]:
    """Run a coroutine during the block and cancel the task when the block ends."""
    task = asyncio.create_task(check)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
