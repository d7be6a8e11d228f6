"""The chat path: enhance → guard the input, and begin the turn meanwhile → generate, held back by
the guard → store → done.

The guard judges what was typed and what the enhancer made of it, so the enhancer comes first. A
history that the client keeps is judged too. `Chat.run` is the story.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from services.chassis.errors import ServiceError, UnavailableError
from services.gateway.answer_cache import AnswerCache
from services.gateway.clock import TurnClock
from services.gateway.events import FinishReason
from services.gateway.generation import Generator
from services.gateway.guard import Guard, InputRuling
from services.gateway.prompts import Enhancer, Prompts
from services.gateway.sessions import Answer, Begun, Sessions, StoredAnswer
from services.gateway.storing import Storing
from services.gateway.turn import Claim, Turn
from services.gateway.writing import Pace, Writing, replay


@dataclass(frozen=True)
class Peers:
    """The services that a turn passes through."""

    enhancer: Enhancer
    guard: Guard
    sessions: Sessions
    generator: Generator


class Chat:
    """Answers turns."""

    def __init__(self, peers: Peers, pace: Pace, storing: Storing, cache: AnswerCache) -> None:
        self._prompts = Prompts(peers.enhancer, peers.sessions)
        self._guard, self._sessions, self._generator = peers.guard, peers.sessions, peers.generator
        self._pace, self._storing, self._cache = pace, storing, cache

    async def run(self, turn: Turn) -> None:
        """One turn, from the typed text to the stored answer.

        Raises:
            ServiceError: a service failed before there was an answer, or the answer could not be
                stored.
        """
        clock = TurnClock(turn.accepted_at)
        clock.passed("admit")
        await self._generator.require_version(turn.request.pinned_version)

        prompt = await self._prompts.read(turn.request)
        clock.passed("enhance")

        async with meanwhile(
            self._guard.check_input((*prompt.texts, *turn.request.said_before))
        ) as ruling:
            begun = await self._sessions.begin_turn(turn.request, prompt)
            turn.begin(begun.message_id, anew=begun.replayed)
            clock.passed("begin")
            stored = await self._stored(begun)
            claim = await turn.claim(in_doubt=begun.replayed and not stored)
            clock.passed("claim")

            if claim is Claim.ELSEWHERE:
                await turn.mirror()
            elif stored := stored or await self._stored(begun):
                replay(turn, begun, stored)
            elif claim is Claim.UNKNOWN:
                raise _unknown_turn()
            else:
                await self._answer(Writing(turn, begun, prompt, clock), turn, begun, ruling)

    async def _stored(self, begun: Begun) -> StoredAnswer | None:
        """The answer, if this request_id was answered before."""
        return await self._sessions.finished_answer(begun.message_id) if begun.replayed else None

    async def _answer(
        self, writing: Writing, turn: Turn, begun: Begun, ruling: asyncio.Task[InputRuling]
    ) -> None:
        """Without the guard's ruling nothing is generated; the user's message is kept."""
        question = None
        try:
            if writing.heed(await ruling):
                policy_version = writing.answer.policy_version
                question = await self._cache.question(
                    turn.caller.tenant, turn.request, begun.context, policy_version
                )
                if question and (cached := await self._cache.find(question)):
                    writing.repeat(cached)
                else:
                    await writing.generate(self._generator, self._guard, self._pace)
        except ServiceError as error:
            await self._give_up(turn, writing.answer, error)
            return
        await self._storing.store(writing.answer)
        turn.complete(writing.answer.finish_reason)
        if question:
            await self._cache.keep(question, writing.answer)

    async def _give_up(self, turn: Turn, answer: Answer, error: ServiceError) -> None:
        """Readers learn of it at once; what they were shown is kept."""
        turn.fail(error)
        if turn.superseded:
            return
        # An answer that nobody saw stays open, so that the same request_id can still be answered.
        if turn.started or not turn.request.request_id:
            await self._storing.store(replace(answer, finish_reason=FinishReason.FAILED))


def _unknown_turn() -> UnavailableError:
    """Answering a turn that another gateway may be answering would give one message two texts."""
    return UnavailableError(
        "this turn was begun before, and whether it still runs cannot be known now",
        reason="TURN_STATE_UNKNOWN",
        retry_seconds=1,
    )


@asynccontextmanager
async def meanwhile(
    asked: Coroutine[None, None, InputRuling],
) -> AsyncIterator[asyncio.Task[InputRuling]]:
    """A question that is answered while the block runs; at its end nobody waits for the answer any
    more.
    """
    task = asyncio.create_task(asked)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
