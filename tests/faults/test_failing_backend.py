"""R2, F41: retries at a failing backend stay few, over one hop and over three.

The channel is the standard one of all services.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis.channel import open_channel
from tests.faults.replica import InProcessReplica, in_process_replica

CALLS, AT_ONCE = 300, 10
MOST_ONE_HOP, MOST_THREE_HOPS = 1.1, 1.3
Stub = enhancer_pb2_grpc.EnhancerServiceStub


@asynccontextmanager
async def chain(length: int) -> AsyncIterator[tuple["Stub", list[InProcessReplica]]]:
    """Run a chain of replicas, started from the last, and yield a channel to the first."""
    async with AsyncExitStack() as stack:
        replicas: list[InProcessReplica] = []
        for _ in range(length):
            target = replicas[-1].target if replicas else "127.0.0.1:1"
            replicas.append(await stack.enter_async_context(in_process_replica(next_target=target)))
        channel = await stack.enter_async_context(
            open_channel(replicas[-1].target, enhancer_pb2.DESCRIPTOR)
        )
        yield Stub(channel), replicas


async def ask(stub: "Stub", text: str, seconds: float = 10) -> grpc.StatusCode:
    try:
        await stub.Enhance(enhancer_pb2.EnhanceRequest(text=text), timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def call_repeatedly(stub: "Stub", text: str) -> None:
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
