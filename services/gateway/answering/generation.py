"""One generation: passes the generator's events to the held answer and limits every silence.

Reading runs in a separate task, so that the model is never blocked by a pending verdict.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import DeadlineExceededError, UnavailableError
from services.contracts.chat import Finished, Task
from services.contracts.wire import Context
from services.gateway.answering.holdback import HeldAnswer
from services.gateway.turns.request import TurnRequest


@dataclass(frozen=True)
class Selected:
    """Version and sampling parameters chosen for an answer."""

    model_version: str
    arm: str
    assignment_probability: float
    task: Task
    temperature: float
    top_p: float


GenerateEvent = Selected | str | Finished


class Generator(Protocol):
    """Client of the generator service."""

    async def require_version(self, version: str) -> None:
        """Check that a version is served. An empty version leaves the choice to the rollout.

        Raises:
            NotFoundError: The version is not served.
        """

    def generate(
        self, request: TurnRequest, context: Context
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield `Selected`, then text, then `Finished`.

        Closing the generator stops the model server.

        Raises:
            ServiceError: The generator service failed.
        """


@dataclass(frozen=True)
class Timeouts:
    """Longest silence of the generator, before the first text and between two texts."""

    first_text_seconds: float
    idle_seconds: float


class Generation:
    """Reader of one stream of the generator."""

    def __init__(
        self, held: HeldAnswer, on_selected: Callable[[Selected], None], timeouts: Timeouts
    ) -> None:
        self._held, self._on_selected, self._timeouts = held, on_selected, timeouts
        self._task: asyncio.Task[None] | None = None
        self.finished: Finished | None = None
        self.first_text_at: float | None = None
        self._texts: list[str] = []

    @property
    def text(self) -> str:
        """Text written by the model so far, including text not yet released."""
        return "".join(self._texts)

    @asynccontextmanager
    async def reading(self, events: AsyncGenerator[GenerateEvent, None]) -> AsyncIterator[None]:
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

    async def _run(self, events: AsyncGenerator[GenerateEvent, None]) -> None:
        try:
            async with aclosing(events):
                # `aclosing` stops the model server, even if this task is cancelled.
                while self.finished is None:
                    match event := await self._next(events):
                        case Selected():
                            self._on_selected(event)
                        case str():
                            self.first_text_at = self.first_text_at or time.monotonic()
                            self._texts.append(event)
                            self._held.add(event)
                        case Finished():
                            self.finished = event
            self._held.end()
        except Exception as error:  # noqa: BLE001 - raised again where the answer is released
            self._held.end(error)

    async def _next(self, events: AsyncGenerator[GenerateEvent, None]) -> GenerateEvent:
        # The first text takes longer, because the model must read the whole prompt first.
        seconds = (
            self._timeouts.idle_seconds if self.first_text_at else self._timeouts.first_text_seconds
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
