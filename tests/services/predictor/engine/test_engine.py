"""The engine with a fake pipeline whose steps the test permits one by one."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

import pytest

from services.predictor.engine.engine import (
    LONG_PROMPT_TOKENS,
    MAX_UNDELIVERED_STEPS,
    AdmissionLimits,
    Engine,
)
from services.predictor.engine.generation import Finish, Generation, Sampling, TokenBatch
from services.predictor.engine.pipeline import Progress
from services.predictor.errors import EngineFailedError, OverloadedError, UnavailableError
from tests.support.errors import refused

SAMPLING = Sampling(max_new_tokens=100, end_ids=(0,), seed=0)


class SteppedPipeline:
    """Pipeline that yields one token per request and step, when the test permits a step."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.live: dict[int, Sampling] = {}
        self.generated: dict[int, int] = {}
        self.cancelled: list[int] = []
        self.broken = False
        self.drop = False
        self.batches: list[int] = []
        self.unread: set[int] = set()  # requests whose prompt is being read

    def add(self, request_id: int, prompt: Sequence[int], sampling: Sampling) -> None:
        self.live[request_id] = sampling
        self.generated[request_id] = 0

    def step(self) -> None:
        self.permits.acquire()
        if self.broken:
            raise RuntimeError("step failed")
        self.batches.append(len(self.live))

    def read(self, request_id: int) -> Progress:
        if self.drop:
            del self.live[request_id]
            return Progress(dropped=True)
        if request_id in self.unread:
            return Progress()
        self.generated[request_id] += 1
        finish = (
            Finish.LENGTH
            if self.generated[request_id] == self.live[request_id].max_new_tokens
            else None
        )
        if finish:
            del self.live[request_id]
        return Progress((self.generated[request_id],), (), finish)

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)
        del self.live[request_id]

    def has_work(self) -> bool:
        return bool(self.live)

    def cache_usage(self) -> float:
        return 0.5


class RecordingObserver:
    """Observer that records the calls of an engine."""

    def __init__(self) -> None:
        self.calls: deque[tuple[str, float]] = deque()

    def started(self, queue_seconds: float, prompt_tokens: int) -> None:
        self.calls.append(("started", prompt_tokens))

    def first_token(self, seconds: float) -> None:
        self.calls.append(("first", seconds))

    def next_tokens(self, seconds: float) -> None:
        self.calls.append(("next", seconds))

    def stepped(self, new_tokens: int, running: int, waiting: int, cache_usage: float) -> None:
        self.calls.append(("stepped", new_tokens))


@pytest.fixture
async def pipeline() -> SteppedPipeline:
    return SteppedPipeline()


@pytest.fixture
async def engine(pipeline: SteppedPipeline) -> AsyncIterator[Engine]:
    engine = Engine(
        pipeline, AdmissionLimits(2, 1), asyncio.get_running_loop(), RecordingObserver()
    )
    engine.start()
    yield engine
    pipeline.permits.release(1000)
    await asyncio.to_thread(engine.close)


async def take_tokens(generation: Generation, count: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < count:
        ids += (await anext(generation)).ids
    return ids


async def test_each_token_arrives_before_the_next_step(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], SAMPLING)
    for token in range(1, 5):
        pipeline.permits.release()
        assert (await anext(generation)).ids == (token,)


async def test_accumulated_tokens_are_delivered_together_in_order() -> None:
    generation = Generation([1], SAMPLING, 0.0)
    for token in (1, 2, 3):
        generation.deliver(TokenBatch((token,), (-0.5,)))
    generation.deliver(Finish.STOP)
    assert await anext(generation) == TokenBatch((1, 2, 3), (-0.5, -0.5, -0.5))
    assert [batch async for batch in generation] == []
    assert generation.finish is Finish.STOP


async def test_the_engine_waits_for_a_lagging_event_loop(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], SAMPLING)
    await asyncio.sleep(0)
    pipeline.permits.release(1000)
    time.sleep(0.3)  # blocks the event loop
    assert len(pipeline.batches) <= MAX_UNDELIVERED_STEPS + 1
    assert await take_tokens(generation, 100) == list(range(1, 101))


async def test_an_engine_closes_while_the_event_loop_is_blocked(
    pipeline: SteppedPipeline,
) -> None:
    engine = Engine(
        pipeline, AdmissionLimits(2, 1), asyncio.get_running_loop(), RecordingObserver()
    )
    engine.submit([1], SAMPLING)
    pipeline.permits.release(1000)
    engine.start()
    engine.close()  # on the event loop, so that nothing can be dispatched


async def test_requests_above_the_limit_wait_or_are_refused(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generations = [
        engine.submit([1], Sampling(max_new_tokens=3, end_ids=(0,), seed=0)) for _ in range(3)
    ]
    with refused(OverloadedError, limit="2 running, 1 waiting"):
        engine.submit([1], SAMPLING)
    pipeline.permits.release(20)
    assert [await take_tokens(generation, 3) for generation in generations] == [[1, 2, 3]] * 3
    assert max(pipeline.batches) == 2
    await engine.drain(1.0)
    assert engine.active == 0


async def test_short_prompts_overtake_long_ones_which_are_read_one_at_a_time(
    pipeline: SteppedPipeline,
) -> None:
    observer, long = RecordingObserver(), [1] * (LONG_PROMPT_TOKENS + 1)
    engine = Engine(pipeline, AdmissionLimits(8, 8), asyncio.get_running_loop(), observer)
    pipeline.unread = {1}
    first, second, cancelled, short = (
        engine.submit(prompt, SAMPLING) for prompt in (long, long, long, [1])
    )
    cancelled.cancel()
    engine.start()
    pipeline.permits.release()
    assert (await anext(short)).ids == (1,)
    assert [batch async for batch in cancelled] == []
    assert pipeline.live.keys() == {1, 2}, "the first long prompt and the short one"
    pipeline.unread = set()
    pipeline.permits.release(2)
    assert (await anext(first)).ids[0] == 1
    assert (await anext(second)).ids[0] == 1
    started = [tokens for name, tokens in observer.calls if name == "started"]
    assert started == [len(long), 1, len(long)]
    pipeline.permits.release(1000)
    await asyncio.to_thread(engine.close)


async def test_cancellation_ends_a_generation_within_one_step(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    continuing, dropped = engine.submit([1], SAMPLING), engine.submit([1], SAMPLING)
    pipeline.permits.release()
    await take_tokens(continuing, 1)
    await take_tokens(dropped, 1)
    dropped.cancel()
    pipeline.permits.release()  # the step that was running at the cancellation
    await take_tokens(continuing, 1)
    generated = max(pipeline.generated.values())
    pipeline.permits.release()
    await take_tokens(continuing, 1)
    assert len(pipeline.cancelled) == 1
    assert pipeline.generated[pipeline.cancelled[0]] <= generated
    assert all([isinstance(batch, TokenBatch) async for batch in dropped])
    assert dropped.finish is Finish.CANCELLED


async def test_a_request_cancelled_in_the_queue_never_runs(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    running = [
        engine.submit([1], Sampling(max_new_tokens=2, end_ids=(0,), seed=0)) for _ in range(2)
    ]
    waiting = engine.submit([1], SAMPLING)
    waiting.cancel()
    pipeline.permits.release(2)
    for generation in running:
        await take_tokens(generation, 2)
    assert [batch async for batch in waiting] == []
    assert waiting.finish is Finish.CANCELLED
    assert len(pipeline.generated) == 2


async def test_drain_refuses_new_requests_and_waits_for_running_ones(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], Sampling(max_new_tokens=2, end_ids=(0,), seed=0))
    drained = asyncio.create_task(engine.drain(30.0))
    await asyncio.sleep(0)
    with refused(UnavailableError, reason="STOPPED"):
        engine.submit([1], SAMPLING)
    assert not drained.done()
    pipeline.permits.release(2)
    assert await take_tokens(generation, 2) == [1, 2]
    await drained


async def test_drain_cancels_generations_after_the_limit(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], SAMPLING)
    pipeline.permits.release()
    await take_tokens(generation, 1)
    drained = asyncio.create_task(engine.drain(0.0))
    await asyncio.sleep(0.01)
    pipeline.permits.release(2)
    await drained
    assert generation.cancelled


async def test_a_failed_step_ends_all_requests_with_an_error(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generations = [engine.submit([1], SAMPLING) for _ in range(3)]
    pipeline.broken = True
    pipeline.permits.release()
    for generation in generations:
        with pytest.raises(EngineFailedError):
            await take_tokens(generation, 1)
    assert engine.failed
    with refused(UnavailableError, reason="ENGINE_FAILED"):
        engine.submit([1], SAMPLING)


async def test_a_request_dropped_for_cache_is_a_retryable_error(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], SAMPLING)
    pipeline.drop = True
    pipeline.permits.release()
    with refused(UnavailableError, reason="OVERLOADED"):
        await take_tokens(generation, 1)
