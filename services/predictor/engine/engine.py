"""The thread that steps one pipeline, and the door to it.

`submit` and `drain` belong to the event loop, `_run` and what it calls to the engine's thread. They
share three things: under a lock the queue of waiting generations and how many steps the loop has
not handed out yet, and each generation's `cancelled` flag. Tokens go to the loop once a step, in
one call.
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

# How many steps a busy loop may be behind. Without a limit it was 205, and a health check of a
# server with a quarter of a processor and 50 streams waited up to 4.4 s; with 8 it waits 0.4 s, and
# as many tokens are made. With 1 there are a fifth fewer: what piles up goes out in one write.
LEAD_STEPS = 8

Delivery = tuple[Generation, TokenBatch | Finish | PredictorError]


class Pipeline(Protocol):
    """What the engine steps."""

    def add(self, request_id: int, prompt: Sequence[int], sampling: Sampling) -> None: ...
    def step(self) -> None: ...
    def read(self, request_id: int) -> Progress: ...
    def cancel(self, request_id: int) -> None: ...
    def has_work(self) -> bool: ...
    def cache_usage(self) -> float: ...


class EngineObserver(Protocol):
    """Told by the engine's thread what happens; must be quick and thread-safe."""

    def started(self, queue_seconds: float, prompt_tokens: int) -> None: ...
    def first_token(self, seconds: float) -> None: ...
    def next_tokens(self, seconds: float) -> None: ...
    def stepped(self, new_tokens: int, running: int, waiting: int, cache_usage: float) -> None: ...


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """`max_concurrent` generations share a step; `max_waiting` more may wait; one more is refused."""

    max_concurrent: int
    max_waiting: int


@dataclass(slots=True)
class _Running:
    generation: Generation
    last_token_at: float = 0.0


class Engine:
    """Generates for one model version."""

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
        self._undelivered = 0  # steps that the loop has not handed out yet
        self._active: set[Generation] = set()  # submitted and not ended, as the loop sees it
        self._idle = asyncio.Event()
        self._idle.set()
        self.refuses = ""  # why nothing more is admitted; empty while all is well
        self.failed = False
        self.generated_tokens = 0
        self._thread = threading.Thread(target=self._run, name="predictor-engine", daemon=True)

    def start(self) -> None:
        """Start the thread. Requests before this wait."""
        self._thread.start()

    @property
    def active(self) -> int:
        """Generations that were submitted and have not ended."""
        return len(self._active)

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Generation:
        """Queue a request whose prompt and new tokens are known to fit the cache.

        Raises:
            OverloadedError: too many wait.
            UnavailableError: the version drains, or its engine broke.
        """
        if len(self._active) >= self._limits.max_concurrent + self._limits.max_waiting:
            raise OverloadedError(
                f"{self._limits.max_concurrent} requests run and {self._limits.max_waiting} wait already; try again later",
                limit=f"{self._limits.max_concurrent} running, {self._limits.max_waiting} waiting",
            )
        generation = Generation(prompt, sampling, time.perf_counter())
        with self._wake:
            if self.refuses:
                raise UnavailableError(
                    self.refuses, reason="ENGINE_FAILED" if self.failed else "STOPPED"
                )
            self._waiting.append(generation)
            self._wake.notify()
        self._active.add(generation)
        self._idle.clear()
        return generation

    async def drain(self, seconds: float) -> None:
        """Admit nothing more and wait for what runs; after `seconds` cancel it."""
        self.refuses = self.refuses or "this version is being unloaded"
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            for generation in self._active:
                generation.cancel()
            await self._idle.wait()

    def close(self) -> None:
        """Stop the thread and free the model. Blocks for one step at most; cancels what still runs."""
        with self._wake:
            self._closing = True
            self.refuses = self.refuses or "this version was unloaded"
            self._wake.notify()
        self._thread.join()
        del self._pipeline

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._running or self._closing)
                if self._closing:
                    break
            try:
                self._admit()
                self._cancel_flagged()
                self._pipeline.step()
                self._publish()
            except Exception as error:  # noqa: BLE001 - a failed step leaves its requests alive for ever: end them all
                self._break(error)
                return
        for request_id in self._running:
            self._pipeline.cancel(request_id)
        self._end_all(UnavailableError("this version was unloaded", reason="STOPPED"))
        while self._pipeline.has_work():
            self._pipeline.step()

    def _admit(self) -> None:
        while len(self._running) < self._limits.max_concurrent:
            with self._wake:
                if not self._waiting:
                    return
                generation = self._waiting.popleft()
            if generation.cancelled:
                self._deliver([(generation, Finish.CANCELLED)])
                continue
            request_id = next(self._request_ids)
            self._pipeline.add(request_id, generation.prompt, generation.sampling)
            self._running[request_id] = _Running(generation)
            self._observer.started(
                time.perf_counter() - generation.submitted_at, len(generation.prompt)
            )

    def _cancel_flagged(self) -> None:
        """Ends are told at once; the pipeline forgets the request with its next step."""
        flagged = [
            (key, running.generation)
            for key, running in self._running.items()
            if running.generation.cancelled
        ]
        for request_id, _ in flagged:
            self._pipeline.cancel(request_id)
            del self._running[request_id]
        self._deliver([(generation, Finish.CANCELLED) for _, generation in flagged])

    def _publish(self) -> None:
        now = time.perf_counter()
        deliveries: list[Delivery] = []
        new_tokens = 0
        for request_id, running in list(self._running.items()):
            progress = self._pipeline.read(request_id)
            if progress.ids:
                new_tokens += len(progress.ids)
                self._observe_tokens(running, now)
                deliveries.append(
                    (running.generation, TokenBatch(progress.ids, progress.log_probs))
                )
            if progress.finish is not None or progress.dropped:
                del self._running[request_id]
                deliveries.append((running.generation, _end(progress)))
        self.generated_tokens += new_tokens
        self._observer.stepped(
            new_tokens, len(self._running), len(self._waiting), self._pipeline.cache_usage()
        )
        self._deliver(deliveries)

    def _observe_tokens(self, running: _Running, now: float) -> None:
        if running.last_token_at:
            self._observer.next_tokens(now - running.last_token_at)
        else:
            self._observer.first_token(now - running.generation.submitted_at)
        running.last_token_at = now

    def _break(self, error: Exception) -> None:
        log.error("engine step failed", exc_info=error)
        with self._wake:  # a submit at the same moment is either refused or ended below
            self.failed = True
            self.refuses = "the engine of this version failed; load the version again"
        self._end_all(EngineFailedError(self.refuses))

    def _end_all(self, error: PredictorError) -> None:
        with self._wake:
            ended = [*(running.generation for running in self._running.values()), *self._waiting]
            self._running.clear()
            self._waiting.clear()
        self._deliver([(generation, error) for generation in ended])

    def _deliver(self, deliveries: list[Delivery]) -> None:
        if not deliveries or self._loop.is_closed():
            return
        with self._wake:
            self._wake.wait_for(lambda: self._undelivered < LEAD_STEPS or self._closing)
            self._undelivered += 1
        self._loop.call_soon_threadsafe(self._hand_out, deliveries)

    def _hand_out(self, deliveries: list[Delivery]) -> None:
        """On the loop: one wake-up a step, however many generations it served."""
        with self._wake:
            self._undelivered -= 1
            self._wake.notify()
        for generation, item in deliveries:
            generation.deliver(item)
            if not isinstance(item, TokenBatch):
                self._active.discard(generation)
        if not self._active:
            self._idle.set()


def _end(progress: Progress) -> Finish | PredictorError:
    if progress.finish is not None:
        return progress.finish
    return UnavailableError(
        "the cache is full of other requests; try again later", reason="OVERLOADED"
    )
