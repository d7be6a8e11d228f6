"""Answers that are shown again: only where the same question must get the same answer, and only to
the same tenant.

That is: temperature 0, a new message, no experiment that would have to choose a version, and
everything equal that the answer depends on. Kept are whole answers in which the guard found
nothing; they are keyed by the policy that passed them.
"""

import json
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import ServiceError
from services.gateway.events import FinishReason, Usage
from services.gateway.generation import Selected
from services.gateway.metrics import ANSWERS
from services.gateway.request import Message, Sampling, Task, TurnRequest, UserInput
from services.gateway.sessions import Answer
from services.gateway.shared_store import StoreAwayError

MAX_ANSWER_BYTES = 65_536


@dataclass(frozen=True)
class Question:
    """All that an answer depends on. `context` is what the model is given, the user's enhanced text
    last.
    """

    tenant: str
    model_version: str
    pinned: bool
    policy_version: str
    task: Task
    sampling: Sampling
    context: tuple[Message, ...]

    def canonical(self) -> str:
        """One text a question, and no other question has it."""
        sampling, context = (
            self.sampling,
            [[message.role, message.text] for message in self.context],
        )
        parameters = [
            sampling.temperature,
            sampling.top_p,
            sampling.max_tokens,
            sampling.stop,
            sampling.seed,
        ]
        return json.dumps(
            [
                self.tenant,
                self.model_version,
                self.pinned,
                self.policy_version,
                self.task,
                parameters,
                context,
            ]
        )


@dataclass(frozen=True)
class CachedAnswer:
    """What is shown again."""

    text: str
    selected: Selected
    usage: Usage


class Answers(Protocol):
    """Where answers are kept. Everything raises StoreAwayError."""

    async def find(self, question: Question) -> CachedAnswer | None:
        """The answer, if there is one that can be read."""

    async def keep(self, question: Question, answer: CachedAnswer) -> None:
        """Keep an answer for a while."""

    async def drop(self, tenant: str) -> None:
        """Forget all answers of a tenant."""


class Versions(Protocol):
    """Which versions answer now."""

    async def sole_version(self) -> str:
        """The version that answers everybody; empty while an experiment runs. Raises: ServiceError."""


class AnswerCache:
    """Finds and keeps answers. What it cannot tell, or not at once, is generated."""

    def __init__(self, answers: Answers | None, versions: Versions) -> None:
        self._answers, self._versions = answers, versions

    async def question(
        self, tenant: str, request: TurnRequest, context: tuple[Message, ...], policy_version: str
    ) -> Question | None:
        """The question, if its answer may be shown again."""
        if (
            not self._answers
            or request.sampling.temperature != 0
            or not isinstance(request.action, UserInput)
        ):
            return None
        pinned = request.pinned_version
        try:
            version = pinned or await self._versions.sole_version()
        except ServiceError:
            version = ""
        if not version:
            ANSWERS.labels("in_doubt").inc()
            return None
        return Question(
            tenant, version, bool(pinned), policy_version, request.task, request.sampling, context
        )

    async def find(self, question: Question) -> CachedAnswer | None:
        """The kept answer; None also while the store is away."""
        if not self._answers:
            return None
        try:
            found = await self._answers.find(question)
        except StoreAwayError:
            ANSWERS.labels("away").inc()
            return None
        ANSWERS.labels("hit" if found else "miss").inc()
        return found

    async def keep(self, question: Question, answer: Answer) -> None:
        """Keep an answer that is whole and clean and came from the version that was asked for."""
        chosen, usage = answer.selected, answer.usage
        if not self._answers or not chosen or not usage or usage.cached:
            return
        if (
            answer.finish_reason is not FinishReason.STOP
            or answer.guard_category
            or not answer.text
        ):
            return
        if (
            chosen.model_version != question.model_version
            or len(answer.text.encode()) > MAX_ANSWER_BYTES
        ):
            return
        try:
            await self._answers.keep(question, CachedAnswer(answer.text, chosen, usage))
        except StoreAwayError:
            ANSWERS.labels("away").inc()
        else:
            ANSWERS.labels("kept").inc()

    async def drop(self, tenant: str) -> None:
        """Forget all answers of a tenant: whose question one was is not known, so one user's
        erasure takes them all.

        Raises:
            StoreAwayError: they may still be there.
        """
        if self._answers:
            await self._answers.drop(tenant)


class LocalAnswers:
    """Answers in this process: each tenant's own, the one that was asked for longest ago goes
    first.
    """

    def __init__(
        self, seconds: float, entries: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds, self._entries, self._monotonic = seconds, entries, monotonic
        self._kept: defaultdict[str, OrderedDict[Question, tuple[float, CachedAnswer]]] = (
            defaultdict(OrderedDict)
        )

    async def find(self, question: Question) -> CachedAnswer | None:
        """See `Answers`."""
        kept = self._kept[question.tenant]
        until, answer = kept.get(question, (0.0, None))
        if self._monotonic() >= until:
            kept.pop(question, None)
            return None
        kept.move_to_end(question)
        return answer

    async def keep(self, question: Question, answer: CachedAnswer) -> None:
        """See `Answers`."""
        kept = self._kept[question.tenant]
        kept[question] = (self._monotonic() + self._seconds, answer)
        kept.move_to_end(question)
        while len(kept) > self._entries:
            kept.popitem(last=False)

    async def drop(self, tenant: str) -> None:
        """See `Answers`."""
        self._kept.pop(tenant, None)
