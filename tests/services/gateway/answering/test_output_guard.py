"""Hold-back: no character is released before its verdict, at any timing."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from thumbwheel.guardrail.v1 import guardrail_pb2

from services.chassis.errors import UnavailableError
from services.gateway.answering.output_guard import (
    MAX_PENDING_CHARACTERS,
    MAX_TAIL_CHARACTERS,
    HeldAnswer,
)


class FakeGuard:
    """Guard with `held` characters held until the end, and a record of its calls."""

    def __init__(self, held: int = 0) -> None:
        self.held = held
        self.asked: list[tuple[str, str, bool]] = []
        self.before_verdict: Callable[[], Any] | None = None
        self.blocks = ""

    async def check_output(
        self, prompt: str, released_tail: str, pending: str, *, final: bool
    ) -> guardrail_pb2.CheckOutputResponse:
        self.asked.append((released_tail, pending, final))
        if self.before_verdict:
            await self.before_verdict()
        if self.blocks and self.blocks in pending:
            verdict = guardrail_pb2.Verdict(action=guardrail_pb2.ACTION_BLOCK, category="harm")
            return guardrail_pb2.CheckOutputResponse(verdict=verdict, rejection_text="No.")
        held = 0 if final else min(self.held, len(pending))
        return guardrail_pb2.CheckOutputResponse(
            verdict=guardrail_pb2.Verdict(action=guardrail_pb2.ACTION_ALLOW),
            release=pending[: len(pending) - held],
            held_characters=held,
        )


async def read(held: HeldAnswer) -> list[str]:
    return [verdict.release async for verdict in held.releases()]


@given(
    deltas=st.lists(st.text(min_size=1, max_size=9), max_size=20),
    held=st.integers(0, 12),
    pauses=st.data(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_all_text_is_released_once_and_in_order_at_any_pace(
    deltas: list[str], held: int, pauses: st.DataObject
) -> None:
    async def run() -> list[str]:
        guard = FakeGuard(held)
        guard.before_verdict = lambda: asyncio.sleep(0)
        answer = HeldAnswer(guard, "prompt", 0.0)
        reading = asyncio.create_task(read(answer))
        for delta in deltas:
            answer.add(delta)
            for _ in range(pauses.draw(st.integers(0, 3))):
                await asyncio.sleep(0)
        answer.end()
        return await reading

    assert "".join(asyncio.run(run())) == "".join(deltas)


async def test_first_text_is_checked_at_once_and_later_text_in_one_piece() -> None:
    guard = FakeGuard()
    answer = HeldAnswer(guard, "prompt", coalesce_seconds=60)
    releases = answer.releases()
    answer.add("one ")
    assert (await anext(releases)).release == "one "
    for delta in ("two ", "three ", "four"):
        answer.add(delta)
    answer.end()
    assert [verdict.release async for verdict in releases] == ["two three four"]
    assert guard.asked == [("", "one ", False), ("one ", "two three four", True)]


async def test_text_arriving_during_a_check_waits_for_its_own_verdict() -> None:
    guard = FakeGuard()
    answer = HeldAnswer(guard, "prompt", 0.0)

    async def more_arrives() -> None:
        guard.before_verdict = None
        answer.add("unjudged")

    guard.before_verdict = more_arrives
    releases = answer.releases()
    answer.add("judged ")
    assert (await anext(releases)).release == "judged "
    assert (await anext(releases)).release == "unjudged"


async def test_block_is_the_last_release() -> None:
    guard = FakeGuard()
    guard.blocks = "bad"
    answer = HeldAnswer(guard, "prompt", 0.0)
    answer.add("bad thing")
    answer.add(" and more")
    answer.end()
    rulings = [checked async for checked in answer.releases()]
    assert [(checked.verdict.action, checked.release) for checked in rulings] == [
        (guardrail_pb2.ACTION_BLOCK, "")
    ]


async def test_text_before_a_failure_is_checked_and_released_first() -> None:
    answer = HeldAnswer(FakeGuard(held=3), "prompt", 0.0)
    answer.add("so far")
    failure = UnavailableError("the generator is away")
    answer.end(failure)
    releases = answer.releases()
    assert (await anext(releases)).release == "so far"
    with pytest.raises(UnavailableError) as caught:
        await anext(releases)
    assert caught.value is failure


async def test_no_release_after_a_stop_even_with_a_pending_verdict() -> None:
    guard = FakeGuard()
    answer = HeldAnswer(guard, "prompt", 0.0)

    async def stop() -> None:
        answer.stop()

    guard.before_verdict = stop
    answer.add("text")
    assert await read(answer) == []


async def test_guard_is_not_called_after_a_stop() -> None:
    guard = FakeGuard()
    answer = HeldAnswer(guard, "prompt", 0.0)
    answer.add("text")
    answer.stop()
    assert await read(answer) == []
    assert guard.asked == []


async def test_limits_of_the_guard_are_respected() -> None:
    guard = FakeGuard(held=5)
    answer = HeldAnswer(guard, "prompt", 0.0)
    text = "x" * (2 * MAX_PENDING_CHARACTERS + 7)
    answer.add(text)
    answer.end()
    assert "".join(await read(answer)) == text
    assert all(len(pending) <= MAX_PENDING_CHARACTERS for _, pending, _ in guard.asked)
    assert all(len(tail) <= MAX_TAIL_CHARACTERS for tail, _, _ in guard.asked)
    assert [final for _, _, final in guard.asked] == [False, False, True]


async def test_guard_that_holds_everything_is_an_error() -> None:
    answer = HeldAnswer(FakeGuard(held=MAX_PENDING_CHARACTERS), "prompt", 0.0)
    answer.add("x" * (MAX_PENDING_CHARACTERS + 1))
    answer.end()
    with pytest.raises(UnavailableError):
        await read(answer)
