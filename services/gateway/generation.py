"""One generation: the generator's events go into the held answer, with a limit on every silence.

It runs as a task beside the guard's checks, so that reading the model never waits for a verdict.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import DeadlineExceededError, UnavailableError
from services.gateway.events import FinishReason, Usage
from services.gateway.holdback import HeldAnswer
from services.gateway.request import Message, Task, TurnRequest


@dataclass(frozen=True)
class Selected:
    """Which version answers, and how."""

    model_version: str
    arm: str
    assignment_probability: float
    task: Task
    temperature: float
    top_p: float


@dataclass(frozen=True)
class Sample:
    """What the model sampled: token ids, and the log-prob of each. It reveals the answer, and goes
    to session alone.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True)
class Finished:
    """The end of a generation; without a sample where the model server tells none."""

    finish_reason: FinishReason
    usage: Usage
    sample: Sample | None = None


GenerateEvent = Selected | str | Finished


class Generator(Protocol):
    """Streams answers."""

    async def require_version(self, version: str) -> None:
        """Raises: NotFoundError if the version is not served. An empty version is the rollout's
        choice and always there.
        """

    def generate(
        self, request: TurnRequest, context: Sequence[Message]
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Selected, then text, then Finished; closing it stops the model server. Raises:
        ServiceError.
        """


@dataclass(frozen=True)
class Patience:
    """How long the generator may be silent."""

    first_text_seconds: float
    idle_seconds: float


class Generation:
    """Reads one stream of the generator."""

    def __init__(
        self, held: HeldAnswer, on_selected: Callable[[Selected], None], patience: Patience
    ) -> None:
        self._held, self._on_selected, self._patience = held, on_selected, patience
        self._task: asyncio.Task[None] | None = None
        self.finished: Finished | None = None
        self.first_text_at: float | None = None
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """What the model wrote so far, shown or not."""
        return "".join(self._texts)

    @asynccontextmanager
    async def reading(self, events: AsyncGenerator[GenerateEvent, None]) -> AsyncIterator[None]:
        """Read until the block ends; leaving it early stops the model server."""
        self._task = asyncio.create_task(self._run(events))
        try:
            yield
        finally:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def stop(self) -> None:
        """Stop the model server now, and release nothing more."""
        if self._task:
            self._task.cancel()
        self._held.stop()

    async def _run(self, events: AsyncGenerator[GenerateEvent, None]) -> None:
        try:
            async with aclosing(events):
                while self.finished is None:
                    self._take(await self._next(events))
            self._held.end()
        except Exception as error:  # noqa: BLE001 - raised again where the answer is released
            self._held.end(error)

    async def _next(self, events: AsyncGenerator[GenerateEvent, None]) -> GenerateEvent:
        seconds = (
            self._patience.idle_seconds if self.first_text_at else self._patience.first_text_seconds
        )
        try:
            async with asyncio.timeout(seconds):
                return await anext(events)
        except TimeoutError as error:
            raise DeadlineExceededError(
                "the generator sent nothing for too long",
                reason="GENERATOR_SILENT",
                limit=f"{seconds:g} s",
            ) from error
        except StopAsyncIteration as error:
            raise UnavailableError(
                "the generator's stream broke off", reason="GENERATOR_UNAVAILABLE"
            ) from error

    def _take(self, event: GenerateEvent) -> None:
        match event:
            case Selected():
                self._on_selected(event)
            case str():
                self.first_text_at = self.first_text_at or time.monotonic()
                self._texts.append(event)
                self._held.add(event)
            case Finished():
                self.finished = event
