"""Coalescing: the first delta at once, no lost character, about one message for each window."""

import asyncio
import itertools

import pytest

from services.generator.answering.coalesce import coalesced
from tests.support.simulated_time import simulate


async def collect(deltas: "asyncio.Queue[str | None]", window_seconds: float) -> list[str]:
    return [text async for text in coalesced(deltas, window_seconds)]


async def test_the_first_delta_is_sent_at_once_and_later_ones_are_joined() -> None:
    deltas: asyncio.Queue[str | None] = asyncio.Queue()
    collecting = asyncio.create_task(collect(deltas, 0.5))
    deltas.put_nowait("a")
    await asyncio.sleep(0.01)
    for delta in "bcdef":
        deltas.put_nowait(delta)
        await asyncio.sleep(0)
    deltas.put_nowait(None)
    assert await collecting == ["a", "bcdef"]


async def test_a_window_of_zero_sends_every_delta_at_once() -> None:
    deltas: asyncio.Queue[str | None] = asyncio.Queue()
    collecting = asyncio.create_task(collect(deltas, 0.0))
    for delta in "abc":
        deltas.put_nowait(delta)
        await asyncio.sleep(0.01)
    deltas.put_nowait(None)
    assert await collecting == ["a", "b", "c"]


async def test_an_empty_answer_has_no_deltas() -> None:
    deltas: asyncio.Queue[str | None] = asyncio.Queue()
    deltas.put_nowait(None)
    assert await collect(deltas, 0.2) == []


def test_pauses_grow_to_four_times_the_window() -> None:
    async def check() -> None:
        deltas: asyncio.Queue[str | None] = asyncio.Queue()
        loop, times = asyncio.get_running_loop(), list[float]()

        async def write() -> None:
            for _ in range(300):
                deltas.put_nowait("a")
                await asyncio.sleep(0.01)
            deltas.put_nowait(None)

        async def read() -> None:
            async for _ in coalesced(deltas, 0.2):
                times.append(loop.time())

        await asyncio.gather(write(), read())
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert pauses[:6] == pytest.approx([0.2, 0.3, 0.45, 0.675, 0.8, 0.8], abs=0.02)

    simulate(check())
