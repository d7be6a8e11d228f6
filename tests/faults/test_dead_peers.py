"""R1, F42: a peer that is stopped, or behind a cut that nobody is told of, is noticed within ten
seconds, at both ends.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from infra.faults.tcp import Fault, TcpFaults, TcpProxy
from services.chassis.channel import open_channel
from tests.faults.processes import Process, replica

NOTICED_SECONDS = 10.0
# The third ping on a quiet connection would be the first that grpc does not send by itself.
QUIET_SECONDS = 13.0
PATIENCE_SECONDS = 60.0


@pytest.fixture
async def peer() -> AsyncIterator[Process]:
    async with replica() as process:
        yield process


async def silent_call(channel: grpc.aio.Channel) -> float:
    """When a call that is never answered was given up as UNAVAILABLE."""
    stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Enhance(enhancer_pb2.EnhanceRequest(text="silent"), timeout=PATIENCE_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return time.monotonic()


async def stream(channel: grpc.aio.Channel, wish: str) -> tuple[int, float]:
    """Deltas that came, and when the stream was given up as UNAVAILABLE."""
    stub: Any = generator_pb2_grpc.GeneratorServiceStub(channel)
    came = 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Generate(
            generator_pb2.GenerateRequest(user_key=wish), timeout=PATIENCE_SECONDS
        ):
            came += 1
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return came, time.monotonic()


@pytest.mark.slow
async def test_a_stopped_server_is_noticed_before_the_first_answer_and_in_mid_stream(
    peer: Process, record_property: Any
) -> None:
    async with open_channel(peer.target) as waiting, open_channel(peer.target) as reading:
        quiet = asyncio.create_task(silent_call(waiting))
        lively = asyncio.create_task(stream(reading, "1000 10 0.2"))
        await asyncio.sleep(QUIET_SECONDS)
        assert not quiet.done()
        assert not lively.done()
        peer.send(signal.SIGSTOP)
        stopped = time.monotonic()
        came, noticed_in_stream = await lively
        noticed_in_silence = await quiet
    assert came > 0
    record_property("fired", 1)
    record_property(
        "noticed_seconds",
        [round(at - stopped, 1) for at in (noticed_in_silence, noticed_in_stream)],
    )
    assert noticed_in_silence - stopped <= NOTICED_SECONDS
    assert noticed_in_stream - stopped <= NOTICED_SECONDS


@pytest.mark.slow
async def test_a_server_notices_a_stopped_client_and_frees_what_works_for_it(peer: Process) -> None:
    async with replica(next_target=peer.target) as middle, open_channel(middle.target) as channel:
        asking = asyncio.create_task(stream(channel, "hop 1000 10 0.2"))
        while not await peer.count("stream-1000"):
            await asyncio.sleep(0.05)
        middle.send(signal.SIGSTOP)
        stopped = time.monotonic()
        while not await peer.count("ended"):
            assert time.monotonic() - stopped <= NOTICED_SECONDS
            await asyncio.sleep(0.1)
        await asking


@pytest.mark.slow
async def test_a_cut_that_nobody_is_told_of_is_noticed_and_nothing_is_stuck_after_it_heals(
    peer: Process, record_property: Any
) -> None:
    with TcpProxy(peer.port) as cut:
        async with open_channel(f"127.0.0.1:{cut.port}", enhancer_pb2.DESCRIPTOR) as channel:
            stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
            ask = enhancer_pb2.EnhanceRequest(text="ok")
            await stub.Enhance(ask, timeout=5)
            cut.faults, parted = TcpFaults(silent=True), time.monotonic()
            noticed = await silent_call(channel)
            record_property("fired", 1)
            record_property("noticed_seconds", round(noticed - parted, 1))
            assert noticed - parted <= NOTICED_SECONDS
            assert cut.counts[Fault.SILENCED] > 0
            cut.faults, healed = TcpFaults(), time.monotonic()
            await stub.Enhance(ask, timeout=NOTICED_SECONDS, wait_for_ready=True)
            assert time.monotonic() - healed <= NOTICED_SECONDS
            assert cut.counts["connections"] >= 2
