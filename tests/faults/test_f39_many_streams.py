"""R6, F39: thousands of streams come at once. None ends with CANCELLED or UNAVAILABLE, and each
costs the gateway little memory.
"""

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
SECONDS = 240.0


def resident_kib(process: GatewayProcess) -> int:
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


class Crowd:
    """Turns at once, over as many connections as they need; each stays in mid-answer until it is
    let go.
    """

    def __init__(self, gateway: GatewayProcess, fakes: Backends) -> None:
        self._gateway, self._fakes, self.seen = gateway, fakes, Counter[str]()
        self._go, self._waiting = asyncio.Event(), 0
        fakes.generator.gate = self._gate

    async def _gate(self, number: int) -> None:
        if number == 1:
            self._waiting += 1
            await self._go.wait()

    async def chat(self, streams: int, a_second: float) -> int:
        """All of them, begun at that pace. What the gateway took of memory, in KiB, while all stood
        in mid-answer.
        """
        options = [("grpc.use_local_subchannel_pool", 1)]
        target = self._gateway.run_gateway.grpc_target
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
            self._gateway.run_gateway.metadata(),
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
@pytest.mark.timeout(900)
async def test_f39_streams_that_come_in_their_thousands_are_all_served(
    tmp_path: Path, streams: int, a_second: float, record_property: Any
) -> None:
    # What is tried is what the process can carry, not what the door lets in.
    # The fakes stand for five services: each turn has several calls under way there.
    most = 5 * streams
    doors = {"max_concurrent_rpcs": most, "sure_concurrent_rpcs": most}
    turns = {"max_turns": most, "sure_turns": most, "max_turns_per_user": 0}
    waits = ("guard", "session", "enhancer", "finish", "first_text", "idle")
    settings = doors | turns | {f"{wait}_seconds": SECONDS for wait in waits}
    async with (
        backends(**doors) as (fakes, target),
        gateway_process(tmp_path, fakes, target, **settings) as gateway,
    ):
        await gateway.run_gateway.ask("first")
        crowd, began = Crowd(gateway, fakes), time.monotonic()
        taken = await crowd.chat(streams, a_second)
        seconds = time.monotonic() - began
    record_property("fired", streams)
    record_property("kB_a_stream", round(taken * 1.024 / streams, 1))
    record_property("turns_a_second", round(streams / seconds))
    assert crowd.seen == {"OK": streams}
