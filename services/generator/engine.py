"""One generation: which version, how, its text as it comes, and its end. Cancelling it aborts the
model server's work.

The end is the model server's: end of sequence, a stop string, or the limit of tokens.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from services.chassis.errors import NotFoundError, ServiceError, UnavailableError
from services.generator.coalesce import coalesced
from services.generator.metrics import FIRST_TEXT_SECONDS, GENERATIONS, SAMPLES, TOKENS
from services.generator.presets import NO_OVERRIDES, Overrides, Preset, Sampling, Task, sampling_for
from services.generator.rollout import Assignment
from services.generator.routing import Router
from services.generator.running import Running
from services.generator.sample import Sample, SampleParts
from services.generator.sse import Piece
from services.generator.task_choice import choose_task


class FinishReason(StrEnum):
    """Why an answer ended; the model server's words."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Message:
    """One message of the context; role is "system", "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True)
class GenerateRequest:
    """What is to be answered, for whom, and how."""

    user_key: str
    messages: Sequence[Message]
    task: Task | None = None
    overrides: Overrides = NO_OVERRIDES
    pinned_version: str = ""


@dataclass(frozen=True)
class Selected:
    """Which version answers and how; comes first."""

    assignment: Assignment
    task: Task
    sampling: Sampling


@dataclass(frozen=True)
class Finished:
    """The end; comes last. `sample` is None where the model server did not tell all of it."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    sample: Sample | None = None


@dataclass(frozen=True)
class Patience:
    """Longest waits for the first text, between two pieces of it, and for any sign of life when one
    is asked for.
    """

    first_token_seconds: float
    idle_seconds: float
    hang_seconds: float


class ChatServer(Protocol):
    """Answers messages piece by piece. Raises ServiceError; NotFoundError if it does not hold the
    version.
    """

    async def answer(
        self,
        version: str,
        messages: Sequence[Message],
        sampling: Sampling,
        take: Callable[[Piece], None],
    ) -> None: ...


class _Answer:
    """What has arrived so far. `texts` ends with None."""

    def __init__(self, version: str) -> None:
        self.texts: asyncio.Queue[str | None] = asyncio.Queue()
        self.finish_reason: str | None = None
        self.usage = (0, 0)
        self._sample = SampleParts()
        self._version = version
        self._began = time.perf_counter()
        self._has_text = False

    def take(self, piece: Piece) -> None:
        if piece.text:
            if not self._has_text:
                FIRST_TEXT_SECONDS.labels(self._version).observe(time.perf_counter() - self._began)
            self._has_text = True
            self.texts.put_nowait(piece.text)
        self._sample.add(piece.token_ids, piece.log_probs)
        self.finish_reason = piece.finish_reason or self.finish_reason
        self.usage = piece.usage or self.usage

    def finished(self) -> Finished:
        """Raises: UnavailableError if the stream ended without saying why."""
        if self.finish_reason not in list(FinishReason):
            raise UnavailableError(
                "the model server broke the answer off", reason="MODEL_SERVER_LOST"
            )
        return Finished(
            FinishReason(self.finish_reason), *self.usage, self._sample.whole(self.usage[1])
        )


class Engine:
    """Runs generations."""

    def __init__(
        self,
        router: Router,
        server: ChatServer,
        running: Running,
        presets: Mapping[Task, Preset],
        reply_tokens: int,
        coalesce_seconds: float,
        tells_tokens: bool,
    ) -> None:
        self._router = router
        self._server = server
        self._running = running
        self._presets = presets
        self._reply_tokens = reply_tokens
        self._coalesce_seconds = coalesce_seconds
        self._tells_tokens = tells_tokens

    async def generate(
        self, request: GenerateRequest
    ) -> AsyncGenerator[Selected | str | Finished, None]:
        """Selected, then texts, then Finished.

        Raises:
            InvalidArgumentError: sampling out of range, or the context is too long for the model.
            NotFoundError: the pinned version is not served.
            UnavailableError: no version is ready (MODEL_NOT_READY), or the model server is silent
                or lost.
            ResourceExhaustedError: the model server's queue is full.
        """
        task = request.task or choose_task(request.messages[-1].text)
        sampling = sampling_for(self._presets[task], request.overrides, self._reply_tokens)
        # Tokens of a stop text are sampled and not shown: then the sample is of another answer.
        sampling = replace(sampling, tells_tokens=self._tells_tokens and not sampling.stop)
        assignment = self._router.choose(request.user_key, request.pinned_version)
        reason = "cancelled"
        with self._running.one(assignment.version):
            try:
                yield Selected(assignment, task, sampling)
                answer = _Answer(assignment.version)
                async with self._reading(answer, assignment, request, sampling) as reading:
                    async for text in coalesced(answer.texts, self._coalesce_seconds):
                        yield text
                    await reading
                finished = answer.finished()
                reason = finished.reason
                TOKENS.labels(assignment.version, "prompt").inc(finished.prompt_tokens)
                TOKENS.labels(assignment.version, "completion").inc(finished.completion_tokens)
                SAMPLES.labels(
                    assignment.version, "none" if finished.sample is None else "whole"
                ).inc()
                yield finished
            except ServiceError as error:
                reason = error.reason.lower()
                raise
            finally:
                GENERATIONS.labels(assignment.version, assignment.arm, reason).inc()

    @asynccontextmanager
    async def _reading(
        self, answer: _Answer, assignment: Assignment, request: GenerateRequest, sampling: Sampling
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Reads beside whoever passes the text on, so that a slow reader of ours never looks like a
        silent model server.
        """
        reading = asyncio.create_task(self._read(answer, assignment, request, sampling))
        try:
            yield reading
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, ServiceError):
                await reading

    async def _read(
        self, answer: _Answer, assignment: Assignment, request: GenerateRequest, sampling: Sampling
    ) -> None:
        try:
            await self._server.answer(assignment.version, request.messages, sampling, answer.take)
        except NotFoundError as error:
            raise self._router.lost(assignment) from error
        finally:
            answer.texts.put_nowait(None)
