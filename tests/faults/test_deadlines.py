"""R1, R5: a deadline shrinks over three real hops, and a cancel at the top reaches the bottom."""

import asyncio

import grpc
import pytest
from thumbwheel.enhancer.v1 import enhancer_pb2
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from services.chassis.channel import HOP_MARGIN_SECONDS, open_channel
from tests.faults.chains import ask, chain

GIVEN_SECONDS = 2.0


async def test_each_of_three_hops_keeps_its_margin_of_the_deadline() -> None:
    async with chain(3) as (stub, _):
        request = enhancer_pb2.EnhanceRequest(text="hop hop left")
        left = float((await stub.Enhance(request, timeout=GIVEN_SECONDS)).text)
    # gRPC rounds timeouts up to 10 ms on the wire, at each hop.
    assert 0 < left <= GIVEN_SECONDS - 2 * HOP_MARGIN_SECONDS + 0.03


async def test_hop_without_time_left_makes_no_call() -> None:
    async with chain(3) as (stub, (last, middle, _)):
        assert (
            await ask(stub, "hop hop ok", HOP_MARGIN_SECONDS) is grpc.StatusCode.DEADLINE_EXCEEDED
        )
        assert (middle.calls["hop"], last.calls["ok"]) == (0, 0)


async def test_cancel_at_the_top_reaches_the_bottom() -> None:
    async with chain(3) as (_, (last, _middle, first)), open_channel(first.target) as channel:
        request = generator_pb2.GenerateRequest(user_key="hop hop silent")
        call = generator_pb2_grpc.GeneratorServiceStub(channel).Generate(request, timeout=60)
        reading = asyncio.ensure_future(call.read())  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            while not last.calls["stream-silent"]:
                await asyncio.sleep(0.02)
            call.cancel()
            while not last.calls["ended"]:
                await asyncio.sleep(0.02)
        with pytest.raises(asyncio.CancelledError):
            await reading
