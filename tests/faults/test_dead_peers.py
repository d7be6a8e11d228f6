"""R1, F42: a frozen peer or a silent network cut is detected within ten seconds, at both ends."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from infra.simulate.faults.tcp import Fault, TcpFaults, TcpProxy
from services.chassis.channel import open_channel
from tests.faults.processes import Process, replica

NOTICED_SECONDS = 10.0
# The third ping on an idle connection, the first not sent by grpc on its own.
QUIET_SECONDS = 13.0
CALL_SECONDS = 60.0


@pytest.fixture
async def peer() -> AsyncIterator[Process]:
    async with replica() as process:
        yield process


async def silent_call(channel: grpc.aio.Channel) -> float:
    """Return the time at which an unanswered call ended with UNAVAILABLE."""
    stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Enhance(enhancer_pb2.EnhanceRequest(text="silent"), timeout=CALL_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return time.monotonic()


async def stream(channel: grpc.aio.Channel, wish: str) -> tuple[int, float]:
    """Return the received deltas and the time at which the stream ended with UNAVAILABLE."""
    stub: Any = generator_pb2_grpc.GeneratorServiceStub(channel)
    came = 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.Generate(
            generator_pb2.GenerateRequest(user_key=wish), timeout=CALL_SECONDS
        ):
            came += 1
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return came, time.monotonic()


@pytest.mark.slow
async def test_frozen_server_is_detected_before_and_during_a_stream(
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
async def test_server_detects_a_frozen_client_and_frees_its_calls(peer: Process) -> None:
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
async def test_silent_network_cut_is_detected_and_leaves_no_stuck_call(
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
