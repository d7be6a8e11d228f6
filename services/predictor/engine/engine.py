"""The engine of one version: a thread that steps the pipeline, and its interface to the event loop.

`submit` and `drain` run on the event loop, `_run` and its callees on the engine's thread. Both
share three things. A lock guards the queue of waiting generations and the number of undelivered
steps. The flag `cancelled` of each generation needs no lock. Tokens of all generations go to the
event loop once per step, in one call.
"""

import asyncio
import collections
import itertools
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.predictor.engine.generation import Finish, Generation, Sampling, TokenBatch
from services.predictor.engine.pipeline import Progress
from services.predictor.errors import (
    EngineFailedError,
    OverloadedError,
    PredictorError,
    UnavailableError,
)

log = logging.getLogger(__name__)

# Limit on the steps that the event loop lags behind. Without a limit the lag was 205 steps, and a
# health check of a server with a quarter of a processor and 50 streams waited up to 4.4 s. With 8
# the wait is 0.4 s at equal throughput. With 1 the throughput is a fifth lower, since no tokens
# accumulate for a common write.
MAX_UNDELIVERED_STEPS = 8

# The pipeline reads prompts one after the other. A short prompt behind four prompts of 5,300 tokens
# waited 37 s for its first token; with one prompt above this length at a time it waits for one.
# Shorter ones, of at most eight steps, are read together, because each may share its last step.
LONG_PROMPT_TOKENS = 2048

Delivery = tuple[Generation, TokenBatch | Finish | PredictorError]


class Pipeline(Protocol):
    """The pipeline that the engine steps; `PagedPipeline` documents the methods."""

    def add(self, request_id: int, prompt: Sequence[int], sampling: Sampling) -> None: ...
    def step(self) -> None: ...
    def read(self, request_id: int) -> Progress: ...
    def cancel(self, request_id: int) -> None: ...
    def has_work(self) -> bool: ...
    def cache_usage(self) -> float: ...


class EngineObserver(Protocol):
    """Receiver of the engine's measurements.

    The methods are called on the engine's thread and must be fast and thread-safe.
    """

    def started(self, queue_seconds: float, prompt_tokens: int) -> None: ...
    def first_token(self, seconds: float) -> None: ...
    def next_tokens(self, seconds: float) -> None: ...
    def stepped(self, new_tokens: int, running: int, waiting: int, cache_usage: float) -> None: ...


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Limits of concurrent requests.

    Args:
        max_concurrent: generations that share a step.
        max_waiting: further generations in the queue; more are refused.
    """

    max_concurrent: int
    max_waiting: int


@dataclass(slots=True)
class _Running:
    generation: Generation
    last_token_at: float = 0.0


class Engine:
    """Runs the generations of one model version."""

    def __init__(
        self,
        pipeline: Pipeline,
        limits: AdmissionLimits,
        loop: asyncio.AbstractEventLoop,
        observer: EngineObserver,
    ) -> None:
        self._pipeline = pipeline
        self._limits = limits
        self._loop = loop
        self._observer = observer
        self._wake = threading.Condition()
        self._waiting: collections.deque[Generation] = collections.deque()
        self._running: dict[int, _Running] = {}
        self._request_ids = itertools.count(1)
        self._closing = False
        self._undelivered_steps = 0  # steps that the event loop has not dispatched
        self._active: set[Generation] = set()  # event loop only: submitted and not ended
        self._idle = asyncio.Event()
        self._idle.set()
        self.closed_reason = ""  # reason for refusing requests; empty while open
        self.failed = False
        self.generated_tokens = 0
        self._thread = threading.Thread(target=self._run, name="predictor-engine", daemon=True)

    def start(self) -> None:
        """Start the thread; requests submitted before the start wait."""
        self._thread.start()

    @property
    def active(self) -> int:
        """Return the number of submitted generations that have not ended."""
        return len(self._active)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Generation:
        """Queue a request whose prompt and new tokens are known to fit into the cache.

        Raises:
            OverloadedError: the queue is full.
            UnavailableError: the version drains, or its engine failed.
        """
        if len(self._active) >= self._limits.max_concurrent + self._limits.max_waiting:
            raise OverloadedError(
                f"{self._limits.max_concurrent} requests run and "
                f"{self._limits.max_waiting} wait; try again later",
                limit=f"{self._limits.max_concurrent} running, {self._limits.max_waiting} waiting",
            )
        generation = Generation(prompt, sampling, time.perf_counter())
        with self._wake:
            if self.closed_reason:
                raise UnavailableError(
                    self.closed_reason, reason="ENGINE_FAILED" if self.failed else "STOPPED"
                )
            self._waiting.append(generation)
            self._wake.notify()
        self._active.add(generation)
        self._idle.clear()
        return generation

    async def drain(self, seconds: float) -> None:
        """Refuse new requests and wait for the running ones; cancel them after `seconds`."""
        self.closed_reason = self.closed_reason or "this version is being unloaded"
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            for generation in self._active:
                generation.cancel()
            await self._idle.wait()

    def close(self) -> None:
        """Stop the thread and free the model.

        Running generations are cancelled. The call blocks for at most one step.
        """
        with self._wake:
            self._closing = True
            self.closed_reason = self.closed_reason or "this version was unloaded"
            self._wake.notify()
        self._thread.join()
        # The pipeline holds the memory of the model, and must not be freed during a step.
        del self._pipeline

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._running or self._closing)
                if self._closing:
                    break
            # The lock is not held during a step, so that `submit` never waits for one.
            try:
                self._admit()
                # End generations whose `cancelled` flag is set. The end is delivered at once; the
                # pipeline releases the request with its next step.
                flagged = [
                    (key, running.generation)
                    for key, running in self._running.items()
                    if running.generation.cancelled
                ]
                for request_id, _ in flagged:
                    self._pipeline.cancel(request_id)
                    del self._running[request_id]
                self._deliver([(generation, Finish.CANCELLED) for _, generation in flagged])
                self._pipeline.step()
                self._read_tokens()
            except Exception as error:  # else the requests would never end
                log.error("engine step failed", exc_info=error)
                with self._wake:  # a concurrent submit is either refused or ended below
                    self.failed = True
                    self.closed_reason = "the engine of this version failed; load the version again"
                self._end_all(EngineFailedError(self.closed_reason))
                return
        for request_id in self._running:
            self._pipeline.cancel(request_id)
        self._end_all(UnavailableError("this version was unloaded", reason="STOPPED"))
        # The pipeline releases cancelled requests only in a step.
        while self._pipeline.has_work():
            self._pipeline.step()

    def _admit(self) -> None:
        while len(self._running) < self._limits.max_concurrent:
            reads_long = any(
                not running.last_token_at and _is_long(running.generation)
                for running in self._running.values()
            )
            with self._wake:
                admissible = (
                    position
                    for position, generation in enumerate(self._waiting)
                    if not (reads_long and _is_long(generation))
                )
                position = next(admissible, None)
                if position is None:
                    return
                generation = self._waiting[position]
                del self._waiting[position]
            # Cancelled in the queue: never add the request, since a prefill costs a step.
            if generation.cancelled:
                self._deliver([(generation, Finish.CANCELLED)])
                continue
            request_id = next(self._request_ids)
            self._pipeline.add(request_id, generation.prompt, generation.sampling)
            self._running[request_id] = _Running(generation)
            self._observer.started(
                time.perf_counter() - generation.submitted_at, len(generation.prompt)
            )

    def _read_tokens(self) -> None:
        now = time.perf_counter()
        deliveries: list[Delivery] = []
        new_tokens = 0
        # A copy, since ended requests are removed inside the loop.
        for request_id, running in list(self._running.items()):
            progress = self._pipeline.read(request_id)
            if progress.ids:
                new_tokens += len(progress.ids)
                if running.last_token_at:
                    self._observer.next_tokens(now - running.last_token_at)
                else:
                    self._observer.first_token(now - running.generation.submitted_at)
                running.last_token_at = now
                deliveries.append(
                    (running.generation, TokenBatch(progress.ids, progress.log_probs))
                )
            end: Finish | PredictorError | None = progress.finish
            if progress.dropped:
                end = UnavailableError("the cache is full; try again later", reason="OVERLOADED")
            if end is not None:
                del self._running[request_id]
                deliveries.append((running.generation, end))
        self.generated_tokens += new_tokens
        self._observer.stepped(
            new_tokens, len(self._running), len(self._waiting), self._pipeline.cache_usage()
        )
        self._deliver(deliveries)

    def _end_all(self, error: PredictorError) -> None:
        with self._wake:
            ended = [*(running.generation for running in self._running.values()), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        self._deliver([(generation, error) for generation in ended])

    def _deliver(self, deliveries: list[Delivery]) -> None:
        if not deliveries or self._loop.is_closed():
            return
        # Back-pressure: block the engine while the event loop lags, except during close.
        with self._wake:
            self._wake.wait_for(
                lambda: self._undelivered_steps < MAX_UNDELIVERED_STEPS or self._closing
            )
            self._undelivered_steps += 1
        self._loop.call_soon_threadsafe(self._dispatch, deliveries)

    def _dispatch(self, deliveries: list[Delivery]) -> None:
        """Deliver the items of one step on the event loop, with one wake-up for all generations."""
        with self._wake:
            self._undelivered_steps -= 1
            self._wake.notify()
        for generation, item in deliveries:
            generation.deliver(item)
            if not isinstance(item, TokenBatch):
                self._active.discard(generation)
        if not self._active:
            self._idle.set()


def _is_long(generation: Generation) -> bool:
    """Return True for a prompt whose reading delays others; a cancelled one is not read."""
    return not generation.cancelled and len(generation.prompt) > LONG_PROMPT_TOKENS
