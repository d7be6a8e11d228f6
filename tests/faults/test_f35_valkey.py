"""F35: Valkey is killed, hangs, is flushed or full during turns, and recovers without help.

Conversations remain correct and the configured policies apply.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from valkey.asyncio import Valkey

from services.chassis.errors import from_rpc
from tests.servers import ValkeyServer
from tests.services.gateway.calls import (
    GeneratorGate,
    cancel,
    collect,
    counter_value,
    read_to_error,
    resume,
    resume_when_published,
    resuming,
    sequences,
    until,
    until_text,
)
from tests.services.gateway.gateway_under_test import GatewayUnderTest, text_of
from tests.services.gateway.two_gateways import two_gateways

ANSWER = "The answer is 42."


@dataclass(frozen=True)
class Fault:
    """A fault of Valkey with its repair. `reason` is the logged reason."""

    begin: Callable[[ValkeyServer, Valkey], Awaitable[None]]
    end: Callable[[ValkeyServer, Valkey], Awaitable[None]]
    reason: str


async def _kill(server: ValkeyServer, operator: Valkey) -> None:
    server.kill()


async def _start(server: ValkeyServer, operator: Valkey) -> None:
    await asyncio.to_thread(server.start)


async def _pause(server: ValkeyServer, operator: Valkey) -> None:
    server.pause()


async def _resume(server: ValkeyServer, operator: Valkey) -> None:
    server.resume()


async def _fill(server: ValkeyServer, operator: Valkey) -> None:
    await operator.config_set("maxmemory", 1)


async def _empty(server: ValkeyServer, operator: Valkey) -> None:
    await operator.config_set("maxmemory", "256mb")


FAULTS = {
    "killed": Fault(_kill, _start, "unreachable"),
    "hangs": Fault(_pause, _resume, "timeout"),
    "full": Fault(_fill, _empty, "full"),
}
Broken = tuple[GatewayUnderTest, GatewayUnderTest, Fault, ValkeyServer, Valkey]


@asynccontextmanager
async def away(server: ValkeyServer, operator: Valkey, fault: Fault) -> AsyncIterator[None]:
    """Wait for both gateways to detect the outage, and after the block the recovery."""
    await fault.begin(server, operator)
    try:
        await until(lambda: counter_value("thumbwheel_gateway_valkey_up", store="valkey") == 0)
        # Both gateways of the process share one gauge. The second detects the outage at its next
        # heartbeat.
        await asyncio.sleep(1.0)
        yield
    finally:
        await fault.end(server, operator)
    await until(lambda: counter_value("thumbwheel_gateway_valkey_up", store="valkey") == 1)
    await asyncio.sleep(0.5)


@pytest.fixture(params=list(FAULTS))
async def broken(
    request: pytest.FixtureRequest, tmp_path: Path, valkey: ValkeyServer
) -> AsyncIterator[Broken]:
    url = valkey.database()
    async with (
        two_gateways(tmp_path, url, valkey_seconds=0.5) as (here, there),
        Valkey.from_url(url) as operator,
    ):
        yield here, there, FAULTS[request.param], valkey, operator


async def test_turns_continue_and_remote_readers_get_the_reason(
    broken: Broken, caplog: pytest.LogCaptureFixture
) -> None:
    here, there, fault, server, operator = broken
    caplog.set_level(logging.INFO)
    hold = GeneratorGate(here, at=2)
    call = here.send(request_id="running")
    seen = await until_text(call)
    message_id = seen[0].message_id
    assert (await until_text(resuming(there, message_id)))[0] == seen[0]
    follower = asyncio.create_task(read_to_error(resuming(there, message_id)))
    await hold.reached.wait()
    async with away(server, operator, fault):
        hold.go.set()
        events = seen + await collect(call)
        # Local readers notice nothing.
        assert (text_of(events), sequences(events)) == (ANSWER, list(range(1, len(events) + 1)))
        assert await resume(here, message_id) == events
        # Readers in the other gateway get an error with the reason.
        assert (await read_to_error(resuming(there, message_id)))[1].reason == "SHARED_STORE_AWAY"
        assert (await asyncio.wait_for(follower, 20))[1].reason == "SHARED_STORE_AWAY"
        # New turns work too, with or without request_id.
        for gateway, more in ((here, {}), (there, {"request_id": "new"})):
            assert text_of(await gateway.ask(**more)) == ANSWER
    # Events from the outage are published afterwards.
    assert await resume_when_published(there, message_id) == events
    assert text_of(await there.ask(request_id="later")) == ANSWER
    finished = here.fakes.session.finished
    assert {answer.text for answer in finished.values()} == {ANSWER}
    assert len(finished) == 4
    assert _said(caplog) == {("valkey unavailable", fault.reason): 2, ("valkey available", None): 2}


async def _following(
    gateway: GatewayUnderTest, message_id: str
) -> "asyncio.Task[list[chat_pb2.ChatEvent]]":
    """Return all events to the end of a running call."""
    call = resuming(gateway, message_id)
    first = await until_text(call)

    async def rest() -> list[chat_pb2.ChatEvent]:
        return first + await collect(call)

    return asyncio.create_task(rest())


def _said(caplog: pytest.LogCaptureFixture) -> dict[tuple[str, Any], int]:
    said: dict[tuple[str, Any], int] = {}
    for record in caplog.records:
        if record.message in ("valkey unavailable", "valkey available"):
            key = (record.message, record.fields.get("reason"))  # type: ignore[attr-defined]
            said[key] = said.get(key, 0) + 1
    return said


async def test_unreachable_turn_is_neither_stopped_nor_answered_twice(
    broken: Broken,
) -> None:
    here, there, fault, server, operator = broken
    hold = GeneratorGate(here, at=1)
    call = here.send(request_id="once")
    seen = await until_text(call)
    await hold.reached.wait()
    async with away(server, operator, fault):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await cancel(there, seen[0].message_id)
        assert from_rpc(caught.value, "gateway").reason == "SHARED_STORE_AWAY"
        events, error = await read_to_error(there.send(request_id="once"))
        assert (events, error.reason) == ([], "TURN_STATE_UNKNOWN")
    again = asyncio.create_task(_asked(there, "once"))
    await asyncio.sleep(0.3)
    hold.go.set()
    first = seen + await collect(call)
    assert await again == first
    assert len(here.fakes.generator.requests) == 1


async def _asked(gateway: GatewayUnderTest, request_id: str) -> list[chat_pb2.ChatEvent]:
    async with asyncio.timeout(10):
        while True:
            try:
                return await gateway.ask(request_id=request_id)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)


async def test_flush_during_turns_is_repaired(tmp_path: Path, valkey: ValkeyServer) -> None:
    url = valkey.database()
    async with two_gateways(tmp_path, url) as (here, there), Valkey.from_url(url) as operator:
        hold = GeneratorGate(here, at=2)
        call = here.send(request_id="once")
        seen = await until_text(call)
        follower = await _following(there, seen[0].message_id)
        await hold.reached.wait()
        for _ in range(3):
            await operator.flushdb()
            assert await operator.dbsize() <= 1
            await asyncio.sleep(0.3)
        # Published again without new events, while a follower waits and a new reader finds the
        # turn.
        await until(lambda: counter_value("thumbwheel_gateway_shared_events_total") > 0)
        hold.go.set()
        events = seen + await collect(call)
        assert await asyncio.wait_for(follower, 20) == events
        assert await resume_when_published(there, seen[0].message_id) == events
    assert text_of(events) == ANSWER
    assert len(here.fakes.generator.requests) == 1


async def test_request_repeated_after_a_flush_waits_for_the_answering_gateway(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    url = valkey.database()
    async with two_gateways(tmp_path, url) as (here, there), Valkey.from_url(url) as operator:
        hold = GeneratorGate(here, at=2)
        call = here.send(request_id="once")
        seen = await until_text(call)
        await hold.reached.wait()
        await operator.flushdb()
        again = asyncio.create_task(there.ask(request_id="once"))
        await until(lambda: len(here.fakes.guardrail.inputs) == 2)
        await asyncio.sleep(0.5)
        hold.go.set()
        events = seen + await collect(call)
        assert await again == events
    assert text_of(events) == ANSWER
    assert len(here.fakes.generator.requests) == 1


async def test_flush_after_the_end_leaves_the_text_in_the_conversation(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    url = valkey.database()
    async with two_gateways(tmp_path, url) as (here, there), Valkey.from_url(url) as operator:
        sent = await here.ask(request_id="once")
        assert await resume(there, sent[0].message_id) == sent
        await operator.flushdb()
        assert (await read_to_error(resuming(there, sent[0].message_id)))[1].reason == "NOT_FOUND"
        assert await resume(here, sent[0].message_id) == sent
        again = await there.ask(request_id="once")
        assert (again[0].message_id, text_of(again)) == (sent[0].message_id, ANSWER)
        assert len(here.fakes.generator.requests) == 1


async def test_short_outage_does_not_affect_remote_readers(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    async with two_gateways(
        tmp_path, valkey.database(), valkey_seconds=0.4, turn_lease_seconds=5.0
    ) as (here, there):
        lost = counter_value("thumbwheel_gateway_valkey_errors_total", use="turns", kind="lost")
        hold = GeneratorGate(here, at=2)
        call = here.send()
        seen = await until_text(call)
        follower = await _following(there, seen[0].message_id)
        await hold.reached.wait()
        valkey.kill()
        await asyncio.to_thread(valkey.start)
        hold.go.set()
        events = seen + await collect(call)
        assert await asyncio.wait_for(follower, 20) == events
        assert (
            counter_value("thumbwheel_gateway_valkey_errors_total", use="turns", kind="lost") > lost
        )
