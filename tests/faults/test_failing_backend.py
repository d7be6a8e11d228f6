"""R2, F41: retries at a failing backend stay few, over one hop and over three.

The channel is the standard one of all services.
"""

import asyncio
from typing import Any

import grpc

from tests.faults.chains import Stub, ask, chain

CALLS, AT_ONCE = 300, 10
MOST_ONE_HOP, MOST_THREE_HOPS = 1.1, 1.3


async def call_repeatedly(stub: Stub, text: str) -> None:
    """Send calls that all fail."""

    async def share() -> None:
        for _ in range(CALLS // AT_ONCE):
            assert await ask(stub, text) is grpc.StatusCode.UNAVAILABLE

    await asyncio.gather(*(share() for _ in range(AT_ONCE)))


async def test_failing_backend_gets_few_additional_calls(
    record_property: Any,
) -> None:
    async with chain(1) as (stub, (last,)):
        await call_repeatedly(stub, "away")
        record_property("fired", last.calls["away"])
        record_property("sent_for_each_call_one_hop", round(last.calls["away"] / CALLS, 3))
        assert CALLS < last.calls["away"] <= MOST_ONE_HOP * CALLS


async def test_retries_do_not_multiply_over_three_hops(record_property: Any) -> None:
    async with chain(3) as (stub, (last, middle, first)):
        await call_repeatedly(stub, "hop hop away")
        record_property("fired", last.calls["away"])
        record_property("sent_for_each_call_three_hops", round(last.calls["away"] / CALLS, 3))
        assert CALLS < last.calls["away"] <= MOST_THREE_HOPS * CALLS
        # Retried at the failing hop and nowhere above.
        assert middle.calls["hop"] == CALLS
        assert first.calls["hop"] == CALLS


async def test_failing_call_is_tried_three_times_only_at_the_last_hop() -> None:
    async with chain(3) as (stub, (last, middle, first)):
        assert await ask(stub, "hop hop away") is grpc.StatusCode.UNAVAILABLE
        assert (last.calls["away"], middle.calls["hop"], first.calls["hop"]) == (3, 1, 1)
