"""The engine's promises, with a pipeline whose every step the test allows by hand."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

import pytest

from services.predictor.engine.engine import LEAD_STEPS, AdmissionLimits, Engine
from services.predictor.engine.generation import Finish, Generation, Sampling, TokenBatch
from services.predictor.engine.pipeline import Progress
from services.predictor.errors import EngineFailedError, OverloadedError, UnavailableError
from tests.support.errors import refused

SAMPLING = Sampling(max_new_tokens=100, end_ids=(0,), seed=0)


class SteppedPipeline:
    """Yields one token a request and step; a step runs only when the test allows it."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.live: dict[int, Sampling] = {}
        self.made: dict[int, int] = {}
        self.cancelled: list[int] = []
        self.broken = False
        self.drop = False
        self.batches: list[int] = []

    def add(self, request_id: int, prompt: Sequence[int], sampling: Sampling) -> None:
        self.live[request_id] = sampling
        self.made[request_id] = 0

    def step(self) -> None:
        self.allowed.acquire()
        if self.broken:
            raise RuntimeError("no such luck")
        self.batches.append(len(self.live))

    def read(self, request_id: int) -> Progress:
        if self.drop:
            del self.live[request_id]
            return Progress(dropped=True)
        self.made[request_id] += 1
        finish = (
            Finish.LENGTH if self.made[request_id] == self.live[request_id].max_new_tokens else None
        )
        if finish:
            del self.live[request_id]
        return Progress((self.made[request_id],), (), finish)

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)
        del self.live[request_id]

    def has_work(self) -> bool:
        return bool(self.live)

    def cache_usage(self) -> float:
        return 0.5


class Observed:
    """Remembers what an engine reports."""

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
    engine = Engine(pipeline, AdmissionLimits(2, 1), asyncio.get_running_loop(), Observed())
    engine.start()
    yield engine
    pipeline.allowed.release(1000)
    await asyncio.to_thread(engine.close)


async def take(generation: Generation, count: int) -> list[int]:
    ids: list[int] = []
    while len(ids) < count:
        ids += (await anext(generation)).ids
    return ids


async def test_each_token_arrives_before_the_next_step_is_made(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], SAMPLING)
    for token in range(1, 5):
        pipeline.allowed.release()
        assert (await anext(generation)).ids == (token,)


async def test_tokens_that_pile_up_come_out_together_and_in_order() -> None:
    generation = Generation([1], SAMPLING, 0.0)
    for token in (1, 2, 3):
        generation.deliver(TokenBatch((token,), (-0.5,)))
    generation.deliver(Finish.STOP)
    assert await anext(generation) == TokenBatch((1, 2, 3), (-0.5, -0.5, -0.5))
    assert [batch async for batch in generation] == []
    assert generation.finish is Finish.STOP


async def test_the_engine_waits_for_a_loop_that_is_behind(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], SAMPLING)
    await asyncio.sleep(0)
    pipeline.allowed.release(1000)
    time.sleep(0.3)  # this is the loop, and it is busy
    assert len(pipeline.batches) <= LEAD_STEPS + 1
    assert await take(generation, 100) == list(range(1, 101))


async def test_a_loop_that_hears_no_more_keeps_no_engine_from_closing(
    pipeline: SteppedPipeline,
) -> None:
    engine = Engine(pipeline, AdmissionLimits(2, 1), asyncio.get_running_loop(), Observed())
    engine.submit([1], SAMPLING)
    pipeline.allowed.release(1000)
    engine.start()
    engine.close()  # here, so that the loop cannot hand anything out


async def test_no_more_than_the_limit_share_a_step_and_the_rest_waits_or_is_refused(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generations = [
        engine.submit([1], Sampling(max_new_tokens=3, end_ids=(0,), seed=0)) for _ in range(3)
    ]
    with refused(OverloadedError, limit="2 running, 1 waiting"):
        engine.submit([1], SAMPLING)
    pipeline.allowed.release(20)
    assert [await take(generation, 3) for generation in generations] == [[1, 2, 3]] * 3
    assert max(pipeline.batches) == 2
    await engine.drain(1.0)
    assert engine.active == 0


async def test_cancelling_ends_a_generation_within_one_step(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    kept, dropped = engine.submit([1], SAMPLING), engine.submit([1], SAMPLING)
    pipeline.allowed.release()
    await take(kept, 1)
    await take(dropped, 1)
    dropped.cancel()
    pipeline.allowed.release()  # the step that was under way when cancel came
    await take(kept, 1)
    made = max(pipeline.made.values())
    pipeline.allowed.release()
    await take(kept, 1)
    assert len(pipeline.cancelled) == 1
    assert pipeline.made[pipeline.cancelled[0]] <= made
    assert all([isinstance(batch, TokenBatch) async for batch in dropped])
    assert dropped.finish is Finish.CANCELLED


async def test_a_cancelled_request_that_waits_never_runs(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    running = [
        engine.submit([1], Sampling(max_new_tokens=2, end_ids=(0,), seed=0)) for _ in range(2)
    ]
    waiting = engine.submit([1], SAMPLING)
    waiting.cancel()
    pipeline.allowed.release(2)
    for generation in running:
        await take(generation, 2)
    assert [batch async for batch in waiting] == []
    assert waiting.finish is Finish.CANCELLED
    assert len(pipeline.made) == 2


async def test_drain_refuses_new_requests_and_waits_for_the_running(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], Sampling(max_new_tokens=2, end_ids=(0,), seed=0))
    drained = asyncio.create_task(engine.drain(30.0))
    await asyncio.sleep(0)
    with refused(UnavailableError, reason="STOPPED"):
        engine.submit([1], SAMPLING)
    assert not drained.done()
    pipeline.allowed.release(2)
    assert await take(generation, 2) == [1, 2]
    await drained


async def test_drain_cancels_what_takes_too_long(engine: Engine, pipeline: SteppedPipeline) -> None:
    generation = engine.submit([1], SAMPLING)
    pipeline.allowed.release()
    await take(generation, 1)
    drained = asyncio.create_task(engine.drain(0.0))
    await asyncio.sleep(0.01)
    pipeline.allowed.release(2)
    await drained
    assert generation.cancelled


async def test_a_broken_step_ends_all_requests_with_an_error_and_says_so(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generations = [engine.submit([1], SAMPLING) for _ in range(3)]
    pipeline.broken = True
    pipeline.allowed.release()
    for generation in generations:
        with pytest.raises(EngineFailedError):
            await take(generation, 1)
    assert engine.failed
    with refused(UnavailableError, reason="ENGINE_FAILED"):
        engine.submit([1], SAMPLING)


async def test_a_request_that_lost_its_cache_is_told_to_come_again(
    engine: Engine, pipeline: SteppedPipeline
) -> None:
    generation = engine.submit([1], SAMPLING)
    pipeline.drop = True
    pipeline.allowed.release()
    with refused(UnavailableError, reason="OVERLOADED"):
        await take(generation, 1)
