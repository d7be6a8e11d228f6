"""R6, F39: thousands of simultaneous streams are all served, at little memory each."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc

from services.chassis.errors import from_rpc
from tests.faults.gateway_process import GatewayProcess, gateway_process
from tests.services.gateway.fakes import Backends, backends
from tests.services.gateway.gateway_under_test import text_of

STREAMS_A_CHANNEL = 200
# Only a limit: a busy machine takes several times as long as the 80 seconds of an idle one.
SECONDS = 900.0


def resident_kib(process: GatewayProcess) -> int:
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


class Crowd:
    """Simultaneous turns over as many connections as needed. Each is paused during its answer."""

    def __init__(self, gateway: GatewayProcess, fakes: Backends) -> None:
        self._gateway, self._fakes, self.seen = gateway, fakes, Counter[str]()
        self._go, self._waiting = asyncio.Event(), 0
        fakes.generator.gate = self._gate

    async def _gate(self, number: int) -> None:
        if number == 1:
            self._waiting += 1
            await self._go.wait()

    async def chat(self, streams: int, a_second: float) -> int:
        """Run all turns at the given pace.

        Returns the increase of the gateway's memory in KiB while all turns are paused.
        """
        options = [("grpc.use_local_subchannel_pool", 1)]
        target = self._gateway.clients.grpc_target
        channels = [
            grpc.aio.insecure_channel(target, options=options)
            for _ in range(0, streams, STREAMS_A_CHANNEL)
        ]
        before, running, began = resident_kib(self._gateway), [], time.monotonic()
        for number in range(streams):
            await asyncio.sleep(
                max(0.0, began + number / a_second - time.monotonic()) if a_second else 0
            )
            running.append(
                asyncio.create_task(self._turn(channels[number // STREAMS_A_CHANNEL], number))
            )
        async with asyncio.timeout(SECONDS):
            while self._waiting + self.seen.total() < streams:
                await asyncio.sleep(0.05)
        taken = resident_kib(self._gateway) - before
        self._go.set()
        await asyncio.gather(*running)
        await asyncio.gather(*(channel.close() for channel in channels))
        return taken

    async def _turn(self, channel: grpc.aio.Channel, number: int) -> None:
        request = chat_pb2.SendMessageRequest(
            input=chat_pb2.UserInput(text="What is it?"), request_id=f"r{number}"
        )
        stub, metadata = (
            chat_pb2_grpc.ChatServiceStub(channel),
            self._gateway.clients.metadata(),
        )
        try:
            events = [
                e async for e in stub.SendMessage(request, timeout=SECONDS, metadata=metadata)
            ]
            self.seen["OK" if text_of(events) == "The answer is 42." else "cut short"] += 1
        except grpc.aio.AioRpcError as error:
            ours = from_rpc(error, "gateway")
            self.seen[f"{ours.code.name} {ours.limit}"] += 1


@pytest.mark.parametrize(
    ("streams", "a_second"),
    [
        pytest.param(100, 0, id="burst of 100"),
        pytest.param(1_000, 0, id="burst of 1000", marks=pytest.mark.long),
        pytest.param(10_000, 200, id="ramp to 10000", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(1_800)
async def test_f39_thousands_of_streams_are_all_served(
    tmp_path: Path, streams: int, a_second: float, record_property: Any
) -> None:
    # The test is about the capacity of the process, not about admission. One process of fakes
    # stands in for five services, and each turn has several calls in it.
    most = 5 * streams
    doors = {"max_concurrent_rpcs": most, "sure_concurrent_rpcs": most, "max_caller_rpcs": 0}
    turns = {"max_turns": most, "sure_turns": most, "max_turns_per_user": 0}
    waits = ("turn", "guard", "session", "enhancer", "finish", "first_text", "idle")
    settings = doors | turns | {f"{wait}_seconds": SECONDS for wait in waits}
    async with (
        backends(**doors) as (fakes, target),
        gateway_process(tmp_path, fakes, target, **settings) as gateway,
    ):
        await gateway.clients.ask("first")
        crowd, began = Crowd(gateway, fakes), time.monotonic()
        taken = await crowd.chat(streams, a_second)
        seconds = time.monotonic() - began
    record_property("fired", streams)
    record_property("kB_a_stream", round(taken * 1.024 / streams, 1))
    record_property("turns_a_second", round(streams / seconds))
    assert crowd.seen == {"OK": streams}
