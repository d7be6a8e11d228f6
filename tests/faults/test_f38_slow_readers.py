"""F38: readers stop reading a long answer. Memory stays flat and each is disconnected in time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from tests.faults.processes import Process, replica

WRITE_SECONDS = 1.5
STREAMS_A_CHANNEL = 50
# Without these options the client would buffer megabytes of each answer.
SMALL_BUFFERS = [
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
    ("grpc.use_local_subchannel_pool", 1),
]
# Ten megabytes per answer, if read completely.
WISH = "1000 10000 0"
MIB = 1 << 20


def resident_mib(process: Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@asynccontextmanager
async def slow_readers(target: str, readers: int) -> AsyncIterator[None]:
    """Yield readers that have read one delta and stopped."""
    async with AsyncExitStack() as stack:
        calls: list[Any] = []
        for _ in range(0, readers, STREAMS_A_CHANNEL):
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(target, options=SMALL_BUFFERS)
            )
            stub = generator_pb2_grpc.GeneratorServiceStub(channel)
            request = generator_pb2.GenerateRequest(user_key=WISH)
            calls += [stub.Generate(request, timeout=120) for _ in range(STREAMS_A_CHANNEL)]
        first = await asyncio.gather(*(call.read() for call in calls))
        assert all(event.text_delta for event in first)
        yield
        for call in calls:
            call.cancel()


async def until_ended(process: Process, calls: int) -> None:
    """Wait until the server has noticed the disconnects."""
    while await process.count("ended") < calls:
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("readers", [50, pytest.param(500, marks=pytest.mark.long)])
async def test_f38_stalled_readers_cost_no_memory_and_are_disconnected(
    readers: int, record_property: Any
) -> None:
    async with replica(max_write_seconds=WRITE_SECONDS) as process:
        # The first streams also pay for allocations shared by all.
        async with slow_readers(process.target, STREAMS_A_CHANNEL):
            pass
        await until_ended(process, STREAMS_A_CHANNEL)
        before, began = resident_mib(process), time.monotonic()
        async with slow_readers(process.target, readers):
            most = resident_mib(process)
            while (cut := await process.count("ended") - STREAMS_A_CHANNEL) < readers:
                assert time.monotonic() - began < 60, f"{cut} of {readers} were cut off"
                most = max(most, resident_mib(process))
                await asyncio.sleep(0.05)
            seconds = time.monotonic() - began
    record_property("fired", cut)
    record_property("grown_MiB", round(most - before, 1))
    record_property("grown_kB_a_reader", round((most - before) * 1024 / readers, 1))
    record_property("all_cut_off_after_seconds", round(seconds, 1))
    assert seconds >= WRITE_SECONDS, "they were cut off for another reason"
    # A small part of the ten megabytes per answer.
    assert most - before <= 16 + readers * 0.128
