"""Receipt of requests: those of one caller at a time are limited, those of others are not."""

import asyncio
from typing import Any

import pytest

from services.chassis.calls.request_reader import (
    MAX_CALLER_REQUESTS,
    ReceiveSlotsByCaller,
    RequestReader,
)
from services.chassis.errors import ResourceExhaustedError
from services.chassis.identity import Caller
from tests.support.errors import refused

ADA, BOB = Caller("acme", "ada"), Caller("acme", "bob")


class HalfSent:
    """A call whose message is never complete. Counts the calls in receipt."""

    def __init__(self) -> None:
        self.running = 0

    async def read(self) -> Any:
        self.running += 1
        await asyncio.Event().wait()


class Complete:
    """A call whose message has arrived."""

    async def read(self) -> Any:
        return "message"


@pytest.mark.parametrize(
    ("caller", "running"), [(ADA, MAX_CALLER_REQUESTS), (Caller(), 100), (None, 100)]
)
async def test_incomplete_requests_of_a_user_are_received_a_few_at_a_time(
    caller: Caller | None, running: int
) -> None:
    reader, half_sent = RequestReader(600), HalfSent()
    context: Any = half_sent
    calls = [asyncio.create_task(reader.read(context, caller)) for _ in range(100)]
    try:
        for _ in range(10):
            await asyncio.sleep(0)
        assert half_sent.running == running
        complete: Any = Complete()
        assert await reader.read(complete, BOB) == "message"
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_many_complete_requests_of_a_user_are_received() -> None:
    reader, complete = RequestReader(600), Complete()
    context: Any = complete
    received = await asyncio.gather(*(reader.read(context, ADA) for _ in range(1_000)))
    assert received == ["message"] * 1_000


async def test_requests_beyond_those_that_may_wait_are_refused() -> None:
    slots, never = ReceiveSlotsByCaller(max_waiting=2), asyncio.Event()

    async def receive(caller: Caller) -> None:
        async with slots.of(caller):
            await never.wait()

    held = [asyncio.create_task(receive(ADA)) for _ in range(MAX_CALLER_REQUESTS + 2)]
    await asyncio.sleep(0)
    with refused(ResourceExhaustedError, reason="REQUEST_TOO_SLOW"):
        await receive(ADA)
    async with slots.of(BOB):
        pass
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)
    async with slots.of(ADA):
        pass
