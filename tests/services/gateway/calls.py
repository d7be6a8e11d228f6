"""Calls of tests to a gateway: interrupted, resumed, cancelled and failed turns, and counters."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from prometheus_client import REGISTRY
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ServiceError, from_rpc
from services.gateway.quotas.quota import Allowance
from services.gateway.quotas.quotas import QuotaRules, Quotas
from services.gateway.turns.turns import SharedState, SingleReplica
from tests.services.gateway.gateway_under_test import GatewayUnderTest


class GeneratorGate:
    """Stops the fake generator before a delta until the test continues."""

    def __init__(self, gateway: GatewayUnderTest, at: int) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        self._at = at
        gateway.fakes.generator.gate = self._gate

    async def _gate(self, number: int) -> None:
        if number == self._at:
            self.reached.set()
            await self.go.wait()


async def until_text(call: Any) -> list[chat_pb2.ChatEvent]:
    """Return the events up to the first text."""
    events = []
    async for event in call:
        events.append(event)
        if event.HasField("text_delta"):
            return events
    raise AssertionError("the stream ended without text")


def resuming(
    gateway: GatewayUnderTest, message_id: str, after: int = 0, key: str | None = None
) -> Any:
    """Return a running ResumeMessage call."""
    request = chat_pb2.ResumeMessageRequest(message_id=message_id, after_sequence=after)
    return gateway.chat.ResumeMessage(request, timeout=20, metadata=gateway.metadata(key))


async def resume(
    gateway: GatewayUnderTest, message_id: str, after: int = 0, key: str | None = None
) -> list[chat_pb2.ChatEvent]:
    """Resume a turn and return all events to the end."""
    return await collect(resuming(gateway, message_id, after, key))


async def resume_when_published(
    gateway: GatewayUnderTest, message_id: str, seconds: float = 10
) -> list[chat_pb2.ChatEvent]:
    """Resume a turn of another gateway to its end, and repeat until its events are published.

    Args:
        gateway: The gateway that reads.
        message_id: Id of the answer.
        seconds: Limit of the waiting time.
    """
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await resume(gateway, message_id)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)


async def collect(call: Any) -> list[chat_pb2.ChatEvent]:
    """Return all events of a call."""
    return [event async for event in call]


async def cancel(gateway: GatewayUnderTest, message_id: str, key: str | None = None) -> bool:
    """Cancel a turn. Returns True if the turn was running."""
    request = chat_pb2.CancelMessageRequest(message_id=message_id)
    response = await gateway.chat.CancelMessage(request, timeout=10, metadata=gateway.metadata(key))
    return bool(response.cancelled)


async def read_to_error(call: Any) -> tuple[list[chat_pb2.ChatEvent], ServiceError]:
    """Return the events before the expected error, and the error as a ServiceError."""
    events = []
    try:
        async for event in call:
            events.append(event)
    except grpc.aio.AioRpcError as error:
        return events, from_rpc(error, "gateway")
    raise AssertionError("the stream ended well")


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Wait for a condition with a time limit."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def single_replica() -> SharedState:
    """Return the shared state of a single gateway without limits."""
    single = SingleReplica()
    return SharedState(single, single, single, Quotas(QuotaRules(Allowance(), Allowance())))


def counter_value(name: str, **labels: str) -> float:
    """Return the current value of a counter."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def sequences(events: list[chat_pb2.ChatEvent]) -> list[int]:
    """Return the sequences of the events in order."""
    return [event.sequence for event in events]
