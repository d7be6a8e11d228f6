"""One generation: choice of version and sampling, the text as it arrives, and the end.

Cancelling a generation aborts the model server's work. The model server decides the end: end of
sequence, a stop string, or the token limit.
"""

import asyncio
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2

from services.chassis.errors import NotFoundError, ServiceError, UnavailableError
from services.contracts.chat import Arm, FinishReason, Task, Usage
from services.contracts.wire import (
    FINISH_REASON_NUMBERS,
    TASK_NUMBERS,
    TASKS,
    overrides_from,
    sample_message,
    usage_message,
)
from services.generator.answering.presets import Preset, Sampling, sampling_for
from services.generator.answering.stream import Chunk, SampleParts, coalesced
from services.generator.answering.task_choice import choose_task
from services.generator.metrics import FIRST_TEXT_SECONDS, GENERATIONS, SAMPLES, TOKENS
from services.generator.rollout.current_rollout import CurrentRollout
from services.generator.rollout.reconcile import Reconciler, RunningGenerations, State
from services.generator.rollout.rollout import Assignment
from services.generator.rollout.traffic import TrafficCounter

RETRY_SECONDS = 2.0
NO_MODEL = (
    "no model is installed; `make up` installs the small model, `make up MODEL=...` another one, "
    "and TW_GENERATOR_STABLE_DIRECTORY names a model directory"
)


@dataclass(frozen=True)
class Timeouts:
    """Timeouts of a model server.

    Args:
        first_token_seconds: from the request to the first text.
        idle_seconds: between two chunks of text.
        hang_seconds: without any response while a probe waits.
    """

    first_token_seconds: float
    idle_seconds: float
    hang_seconds: float


class ChatServer(Protocol):
    """Model server that answers messages chunk by chunk.

    Raises ServiceError, and NotFoundError if the version is not loaded.
    """

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None: ...


class Router:
    """Chooses a version: the pinned one, or that of the rollout, by the versions that are ready.

    External models answer only if pinned.
    """

    def __init__(
        self, current: CurrentRollout, reconciler: Reconciler, external: Collection[str] = ()
    ) -> None:
        self._current = current
        self._reconciler = reconciler
        self._external = external

    def choose(self, user_key: str, pinned_version: str) -> Assignment:
        """Return the assignment of a request.

        Raises:
            NotFoundError: the pinned version is not served.
            UnavailableError: no version is ready, reason MODEL_NOT_READY; the text names the next
                step.
        """
        rollout = self._current.rollout
        if pinned_version:
            # A version that is ready may be pinned even if it is not part of the rollout.
            if pinned_version in self._external or self._reconciler.is_served(pinned_version):
                return Assignment(pinned_version, Arm.PINNED, 1.0)
            if any(found.version == pinned_version for found in rollout.deployments):
                self._check_ready(pinned_version)
            raise _not_served_error()
        candidate, watch = rollout.candidate, rollout.watch
        is_served = self._reconciler.is_served
        assignment = rollout.assign(
            user_key,
            self._current.now_us(),
            candidate_ready=candidate is not None and is_served(candidate.version),
            previous_ready=watch is not None and is_served(watch.previous.version),
        )
        if assignment is None:
            raise UnavailableError(NO_MODEL, reason="MODEL_NOT_READY")
        self._check_ready(assignment.version)
        return assignment

    def lost_version_error(self, assignment: Assignment) -> NotFoundError | UnavailableError:
        """Return the error for a version missing in the model server, and load the version."""
        self._reconciler.report_lost(assignment.version)
        if assignment.arm is Arm.PINNED:
            return _not_served_error()
        return UnavailableError(
            "the model server no longer holds this version and loads it again; try again shortly",
            reason="MODEL_NOT_READY",
            retry_seconds=RETRY_SECONDS,
        )

    def _check_ready(self, version: str) -> None:
        status = self._reconciler.status(version)
        if status.state is State.READY:
            return
        if status.state is State.FAILED:
            text = f"the model could not be loaded: {status.reason}"
        else:
            text = f"the model is not ready yet ({status.reason}); try again shortly"
        raise UnavailableError(text, reason="MODEL_NOT_READY", retry_seconds=RETRY_SECONDS)


def _not_served_error() -> NotFoundError:
    return NotFoundError(
        "this version is not served", field="pinned_version", limit="a version that is served"
    )


class _Answer:
    """Chunks of one answer so far. The queue `texts` ends with None."""

    def __init__(self, version: str) -> None:
        self.texts: asyncio.Queue[str | None] = asyncio.Queue()
        self.finish_reason: str | None = None
        self.usage = Usage()
        self._sample = SampleParts()
        self._version = version
        self._began = time.perf_counter()
        self.first_text_seconds: float | None = None

    def add(self, chunk: Chunk) -> None:
        if chunk.text:
            if self.first_text_seconds is None:
                self.first_text_seconds = time.perf_counter() - self._began
                FIRST_TEXT_SECONDS.labels(self._version).observe(self.first_text_seconds)
            self.texts.put_nowait(chunk.text)
        self._sample.add(chunk.token_ids, chunk.log_probs)
        self.finish_reason = chunk.finish_reason or self.finish_reason
        if chunk.usage:
            self.usage = Usage(*chunk.usage)

    def finished(self) -> generator_pb2.Finished:
        """Return the final event.

        Raises:
            UnavailableError: the stream ended without a finish reason.
        """
        if self.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            raise UnavailableError(
                "the model server ended the stream early", reason="MODEL_SERVER_LOST"
            )
        return generator_pb2.Finished(
            finish_reason=FINISH_REASON_NUMBERS[FinishReason(self.finish_reason)],
            usage=usage_message(self.usage),
            sample=sample_message(self._sample.joined(self.usage.completion_tokens)),
        )


class Engine:
    """Runs generations on the version that the router chooses.

    `external_tokens` has the token limit of each external model.
    """

    def __init__(
        self,
        router: Router,
        server: ChatServer,
        running: RunningGenerations,
        traffic: TrafficCounter,
        presets: Mapping[Task, Preset],
        reply_tokens: int,
        coalesce_seconds: float,
        return_tokens: bool,
        external_tokens: Mapping[str, int],
    ) -> None:
        self._router = router
        self._server = server
        self._running = running
        self._traffic = traffic
        self._presets = presets
        self._reply_tokens = reply_tokens
        self._coalesce_seconds = coalesce_seconds
        self._return_tokens = return_tokens
        self._external_tokens = external_tokens

    async def generate(
        self, request: generator_pb2.GenerateRequest
    ) -> AsyncGenerator[generator_pb2.GenerateEvent, None]:
        """Yield `selected`, then texts, then `finished`; the request has been checked.

        Raises:
            InvalidArgumentError: sampling is out of range, or the context is too long for the
                model.
            NotFoundError: the pinned version is not served.
            UnavailableError: no version is ready (MODEL_NOT_READY), or the model server hangs or
                ends the stream early.
            ResourceExhaustedError: the model server's queue is full.
        """
        task = TASKS[request.task]
        if task is Task.UNSPECIFIED:
            task = choose_task(request.messages[-1].text)
        overrides = overrides_from(request.sampling)
        sampling = sampling_for(self._presets[task], overrides, self._reply_tokens)
        # Tokens of a stop string are sampled but not shown, so the sample would not match the shown
        # text.
        sampling = replace(sampling, return_tokens=self._return_tokens and not sampling.stop)
        assignment = self._router.choose(request.user_key, request.pinned_version)
        if limit := self._external_tokens.get(assignment.version):
            sampling = replace(
                sampling, max_tokens=min(sampling.max_tokens, limit), return_tokens=False
            )
        counted = self._traffic.begin(assignment)
        reason = "cancelled"
        with self._running.track(assignment.version):
            try:
                selected = generator_pb2.Selected(
                    model_version=assignment.version,
                    arm=assignment.arm,
                    assignment_probability=assignment.probability,
                    task=TASK_NUMBERS[task],
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=sampling.max_tokens,
                )
                yield generator_pb2.GenerateEvent(selected=selected)
                answer = _Answer(assignment.version)
                async with self._read_in_background(
                    answer, assignment, request, sampling
                ) as reader:
                    async for text in coalesced(answer.texts, self._coalesce_seconds):
                        yield generator_pb2.GenerateEvent(text_delta=text)
                    await reader
                finished = answer.finished()
                reason, usage = str(answer.finish_reason), answer.usage
                TOKENS.labels(assignment.version, "prompt").inc(usage.prompt_tokens)
                TOKENS.labels(assignment.version, "completion").inc(usage.completion_tokens)
                SAMPLES.labels(
                    assignment.version, "whole" if finished.HasField("sample") else "none"
                ).inc()
                counted.finished(answer.first_text_seconds, usage)
                yield generator_pb2.GenerateEvent(finished=finished)
            except ServiceError as error:
                reason = error.reason.lower()
                counted.failed(error)
                raise
            finally:
                GENERATIONS.labels(assignment.version, assignment.arm, reason).inc()

    @asynccontextmanager
    async def _read_in_background(
        self,
        answer: _Answer,
        assignment: Assignment,
        request: generator_pb2.GenerateRequest,
        sampling: Sampling,
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Read the stream in a task of its own, independent of the reader of our events.

        A slow reader must not look like a hanging model server.
        """

        async def read() -> None:
            try:
                await self._server.answer(
                    assignment.version, request.messages, sampling, answer.add
                )
            except NotFoundError as error:
                raise self._router.lost_version_error(assignment) from error
            finally:
                answer.texts.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            yield reader
        finally:
            reader.cancel()
            with suppress(asyncio.CancelledError, ServiceError):
                await reader
