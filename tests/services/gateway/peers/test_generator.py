"""Retry of a generator call, only if the connection was lost before the first event."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from thumbwheel.generator.v1 import generator_pb2

from services.chassis.errors import UnavailableError
from services.chassis.identity import CallContext, Caller, bind_call
from services.gateway.peers.generator import GeneratorPeer
from services.gateway.turns.request import TurnRequest, typed_message
from tests.support.errors import refused

ADA = CallContext(Caller("acme", "ada"), "r1")
TEXT = generator_pb2.GenerateEvent(text_delta="well")
END = generator_pb2.GenerateEvent(finished=generator_pb2.Finished())
GONE = AioRpcError(grpc.StatusCode.CANCELLED, Metadata(), Metadata(), "it ends")

ScriptedEvent = generator_pb2.GenerateEvent | AioRpcError


class Call:
    """One call with scripted events or a broken connection."""

    def __init__(self, events: tuple[ScriptedEvent, ...]) -> None:
        self._events = events

    async def __aiter__(self) -> AsyncIterator[generator_pb2.GenerateEvent]:
        for event in self._events:
            if isinstance(event, AioRpcError):
                raise event
            yield event

    def cancel(self) -> None: ...


class Stub:
    """Stub that answers each call with the next script."""

    def __init__(self, *calls: tuple[ScriptedEvent, ...]) -> None:
        self._calls = list(calls)
        self.asked = 0

    def Generate(self, *_: Any, **__: Any) -> Call:
        self.asked += 1
        return Call(self._calls.pop(0))


async def answer(stub: Any) -> list[generator_pb2.GenerateEvent]:
    bind_call(ADA)
    return [
        event
        async for event in GeneratorPeer(stub, stub, 10.0).generate(
            TurnRequest(typed_message("hello")), []
        )
    ]


async def test_call_lost_before_the_first_event_is_retried() -> None:
    stub = Stub((GONE,), (TEXT, END))
    said = await answer(stub)
    assert said[0].text_delta == "well"
    assert said[1].HasField("finished")


async def test_started_answer_is_not_retried() -> None:
    stub = Stub((TEXT, GONE), (TEXT, END))
    with pytest.raises(UnavailableError):
        await answer(stub)
    assert stub.asked == 1


async def test_unavailable_generator_is_not_called_a_third_time() -> None:
    stub = Stub((GONE,), (GONE,), (TEXT, END))
    with refused(UnavailableError, reason="GENERATOR_UNAVAILABLE"):
        await answer(stub)
    assert stub.asked == 2
