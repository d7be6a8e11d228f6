"""R4, F32: restarts of a replica lose no call, and a stopping gateway lets answers end."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from infra.run.embedded.layout import free_port
from services.chassis.channel import open_channel
from tests.faults.processes import start_replica
from tests.faults.replica import in_process_replica
from tests.services.gateway.gateway_under_test import kinds_of, run_gateway, text_of

CALLERS = 16
RESTARTS = 10
LAME_DUCK_SECONDS = 0.25
# Longest time for a client to reconnect to a restarted replica.
RECONNECT_SECONDS = 2.5
STREAMS = 50


@asynccontextmanager
async def under_load(targets: str) -> AsyncIterator[Counter[str]]:
    """Run unary calls without retries during the block. Yields their outcomes and servers."""
    seen: Counter[str] = Counter()
    stopped = asyncio.Event()

    async def call_on(stub: enhancer_pb2_grpc.EnhancerServiceStub) -> None:
        while not stopped.is_set():
            try:
                answer = await stub.Enhance(
                    enhancer_pb2.EnhanceRequest(text="work 0.01"), timeout=30
                )
                seen["OK"] += 1
                seen[f"by {answer.text}"] += 1
            except grpc.aio.AioRpcError as error:
                seen[f"{error.code().name}: {error.details()}"] += 1

    async with open_channel(targets) as channel:
        stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
        callers = [asyncio.create_task(call_on(stub)) for _ in range(CALLERS)]
        try:
            yield seen
        finally:
            stopped.set()
            await asyncio.gather(*callers)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def failures(seen: Counter[str]) -> dict[str, int]:
    return {how: count for how, count in seen.items() if how != "OK" and not how.startswith("by ")}


@pytest.mark.parametrize("restarts", [4, pytest.param(20, marks=pytest.mark.long)])
async def test_restarts_of_one_of_two_replicas_fail_no_call(
    restarts: int, record_property: Any
) -> None:
    port = free_port()
    async with (
        in_process_replica() as steady,
        under_load(f"ipv4:{steady.target},127.0.0.1:{port}") as seen,
    ):
        for _ in range(restarts):
            async with in_process_replica(
                port=port, lame_duck_seconds=LAME_DUCK_SECONDS
            ) as replica:
                # Wait until the replica receives calls again, so that the next restart interrupts
                # real work.
                await until(lambda: replica.calls["work"] > CALLERS)
        assert steady.calls["work"] > CALLERS
    record_property("fired", restarts)
    record_property("calls_served", seen["OK"])
    record_property("calls_failed", sum(failures(seen).values()))
    assert failures(seen) == {}


async def restart_processes(times: int) -> Counter[str]:
    """Restart a replica by SIGTERM next to a permanent one, and return the outcomes of calls."""
    steady, going = await start_replica(), await start_replica()
    try:
        async with under_load(f"ipv4:{steady.target},{going.target}") as seen:
            for _ in range(times):
                await asyncio.sleep(RECONNECT_SECONDS)
                going.send(signal.SIGTERM)
                assert await going.ended() == 0
                await going.stop()
                going = await start_replica(port=going.port)
            await asyncio.sleep(RECONNECT_SECONDS)
    finally:
        await asyncio.gather(steady.stop(), going.stop())
    return seen


@pytest.mark.long
async def test_ten_restarts_of_a_process_fail_no_call(record_property: Any) -> None:
    seen = await restart_processes(RESTARTS)
    record_property("fired", RESTARTS)
    record_property("calls_served", seen["OK"])
    assert failures(seen) == {}
    assert len([name for name in seen if name.startswith("by ")]) == RESTARTS + 2


async def test_running_answers_end_before_the_gateway_stops(tmp_path: Path) -> None:
    """Readers get all events: no gap in the sequences, the whole text, and Completed last."""
    shown, go = asyncio.Semaphore(0), asyncio.Event()

    async def read(target: str, metadata: Any) -> list[chat_pb2.ChatEvent]:
        request = chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text="What is it?"))
        async with grpc.aio.insecure_channel(target) as channel:
            events = []
            async for event in chat_pb2_grpc.ChatServiceStub(channel).SendMessage(
                request, timeout=30, metadata=metadata
            ):
                events.append(event)
                if event.HasField("text_delta"):
                    shown.release()
            return events

    async with run_gateway(tmp_path, drain_seconds=20.0) as gateway:

        async def gate(number: int) -> None:
            if number == 1:
                await go.wait()

        gateway.fakes.generator.gate = gate
        reading = [
            asyncio.create_task(read(gateway.grpc_target, gateway.metadata()))
            for _ in range(STREAMS)
        ]
        for _ in range(STREAMS):
            await shown.acquire()
        # The gateway stops while all answers wait for their second word.
        asyncio.get_running_loop().call_later(0.5, go.set)
    for events in await asyncio.gather(*reading):
        assert text_of(events) == "The answer is 42."
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert kinds_of(events)[-1] == "completed"
