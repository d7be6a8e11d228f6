"""Population of concurrent simulated users, limited by bounds.py.

Each visit has its own random numbers, asks a question, compares answers and rates.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from infra.simulate.users.bounds import Bounds, Counts, PopulationRun
from infra.simulate.users.client import Answer, CallFailedError, MessageTarget
from infra.simulate.users.preference import Rater
from infra.simulate.users.questions import Question


@dataclass(frozen=True)
class Habits:
    """Probabilities of actions other than a single question in a new conversation."""

    asks_again: float = 0.5
    edits: float = 0.05
    goes_on: float = 0.05


class Chat(Protocol):
    """Calls of simulated users; implemented by client.Client."""

    async def ask(
        self, key: str, text: str, target: MessageTarget | None = None, model: str = ""
    ) -> Answer: ...

    async def ask_again(self, key: str, answer: Answer) -> Answer: ...

    async def rate(self, key: str, message_id: str, up: bool) -> None: ...

    async def correct(self, key: str, message_id: str, text: str) -> None: ...


class Population:
    """Simulated users with API keys, questions and a preference."""

    def __init__(
        self,
        client: Chat,
        keys: Sequence[str],
        questions: Sequence[Question],
        rater: Rater,
        habits: Habits,
        seed: int,
    ) -> None:
        self._client, self._keys, self._questions = client, keys, questions
        self._rater, self._habits, self._seed = rater, habits, seed
        self._visits = 0

    async def run(
        self, bounds: Bounds, watch: Callable[[Counts], None], stop: asyncio.Event | None = None
    ) -> Counts:
        """Run visits until a limit is reached or `stop` is set.

        Raises:
            PopulationError: too many visits in a row have failed.
        """
        run = PopulationRun(bounds, watch, stop or asyncio.Event())
        async with asyncio.TaskGroup() as group:
            for _ in range(bounds.concurrency):
                group.create_task(self._work(run))
        return run.counts

    async def _work(self, run: PopulationRun) -> None:
        while not run.is_over:
            self._visits += 1
            try:
                await self._visit(run, random.Random(f"{self._seed} {self._visits}"))
            except CallFailedError as error:
                await run.record_failure(error)
            else:
                await run.record_success()

    async def _visit(self, run: PopulationRun, rng: random.Random) -> None:
        """Simulate a visit of a user with a question.

        With the probabilities of the habits, a mistyped first message, a second answer and a
        follow-up question are added.
        """
        key, habits = rng.choice(self._keys), self._habits
        question, target = rng.choice(self._questions), MessageTarget()
        if rng.random() < habits.edits:
            mistyped = await self._client.ask(key, rng.choice(self._questions).text)
            target = MessageTarget(mistyped.conversation_id, mistyped.conversation_id)
            run.counts.record_answer(mistyped)
            run.counts.edited += 1
        while True:
            answer = await self._client.ask(key, question.text, target)
            await self._rate(run, key, question, answer, rng)
            if rng.random() < habits.asks_again and not answer.refused and not run.is_over:
                answer = await self._client.ask_again(key, answer)
                run.counts.regenerated += 1
                await self._rate(run, key, question, answer, rng)
            if run.is_over or rng.random() >= habits.goes_on:
                return
            question, target = (
                rng.choice(self._questions),
                MessageTarget(answer.conversation_id, answer.message_id),
            )

    async def _rate(
        self, run: PopulationRun, key: str, question: Question, answer: Answer, rng: random.Random
    ) -> None:
        """Submit the thumb and the correction for an answer, if the user gives any."""
        run.counts.record_answer(answer)
        if answer.refused:
            return
        feedback = self._rater.feedback_on(question, answer.text, rng)
        if feedback.up is None:
            return
        with run.thumb(feedback.up) as room:
            if room:
                await self._client.rate(key, answer.message_id, feedback.up)
        if room and feedback.correction:
            await self._client.correct(key, answer.message_id, feedback.correction)
            run.counts.corrections += 1
