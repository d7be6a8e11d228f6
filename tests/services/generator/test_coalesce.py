"""Deltas put together: the first at once, no character lost, hardly more messages than windows."""

import asyncio
import itertools

import pytest

from services.generator.coalesce import coalesced
from tests.support.simulated_time import simulate


async def collect(pieces: "asyncio.Queue[str | None]", window_seconds: float) -> list[str]:
    return [text async for text in coalesced(pieces, window_seconds)]


async def test_the_first_delta_goes_at_once_and_the_others_wait_for_each_other() -> None:
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    collecting = asyncio.create_task(collect(pieces, 0.5))
    pieces.put_nowait("a")
    await asyncio.sleep(0.01)
    for piece in "bcdef":
        pieces.put_nowait(piece)
        await asyncio.sleep(0)
    pieces.put_nowait(None)
    assert await collecting == ["a", "bcdef"]


async def test_without_a_window_nothing_waits() -> None:
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    collecting = asyncio.create_task(collect(pieces, 0.0))
    for piece in "abc":
        pieces.put_nowait(piece)
        await asyncio.sleep(0.01)
    pieces.put_nowait(None)
    assert await collecting == ["a", "b", "c"]


async def test_an_empty_answer_has_no_deltas() -> None:
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    pieces.put_nowait(None)
    assert await collect(pieces, 0.2) == []


def test_pauses_grow_to_four_times_the_window() -> None:
    async def play() -> None:
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        loop, moments = asyncio.get_running_loop(), list[float]()

        async def write() -> None:
            for _ in range(300):
                pieces.put_nowait("a")
                await asyncio.sleep(0.01)
            pieces.put_nowait(None)

        async def read() -> None:
            async for _ in coalesced(pieces, 0.2):
                moments.append(loop.time())

        await asyncio.gather(write(), read())
        pauses = [later - earlier for earlier, later in itertools.pairwise(moments)]
        assert pauses[:6] == pytest.approx([0.2, 0.3, 0.45, 0.675, 0.8, 0.8], abs=0.02)

    simulate(play())
