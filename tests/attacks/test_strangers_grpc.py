"""Attacks without a key on the public gRPC port."""

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.health import MAX_CHECKS
from tests.attacks.attacked import Attacked, metadata_of
from tests.support.http2 import DEFAULT_WINDOW, grpc_message, raw_connection

CHECK = b"/grpc.health.v1.Health/Check"
WATCH = b"/grpc.health.v1.Health/Watch"
LIST = b"/thumbwheel.chat.v1.ChatService/ListConversations"
REFLECTION = (
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)
TIMEOUT = (b"grpc-timeout", b"600S")
MIB = 1024 * 1024
STREAMS, CONNECTIONS = 256, 8


async def codes_of(target: str, path: str, request: bytes, calls: int, metadata: Any = ()) -> Any:
    """Return the status codes of several calls at once."""
    async with grpc.aio.insecure_channel(target) as channel:
        method: Any = channel.unary_stream(path)
        outcomes = await asyncio.gather(
            *(method(request, timeout=30, metadata=metadata).read() for _ in range(calls)),
            return_exceptions=True,
        )
    return {getattr(outcome, "code", lambda: None)() for outcome in outcomes}


async def test_watches_with_names_of_four_mib_retain_no_memory(attacked: Attacked) -> None:
    """Attack A7: each call of Watch retained its name."""
    name = b"x" * (4 * MIB - 6)
    request = b"\x0a\xfa\xff\xff\x01" + name
    codes = await codes_of(attacked.stack.grpc, WATCH.decode(), request, calls=24)
    assert codes == {grpc.StatusCode.UNIMPLEMENTED}


@pytest.mark.parametrize("path", REFLECTION)
async def test_reflection_lists_no_services(attacked: Attacked, path: str) -> None:
    for metadata in ((), metadata_of(attacked.attacker)):
        codes = await codes_of(attacked.stack.grpc, path, b"\x3a\x00", 1, metadata)
        assert codes == {grpc.StatusCode.UNIMPLEMENTED}


async def test_unfinished_health_checks_leave_room_for_others(attacked: Attacked) -> None:
    """Attack A8: eight connections of 256 calls occupied all calls of the server."""
    async with AsyncExitStack() as held:
        connections = [
            await held.enter_async_context(raw_connection(attacked.grpc_port, response_window=0))
            for _ in range(CONNECTIONS)
        ]
        for connection in connections:
            for _ in range(STREAMS):
                await connection.start_call(CHECK, [TIMEOUT], grpc_message(b"")[:-1])
        async with asyncio.timeout(30):
            refused = CONNECTIONS * STREAMS - MAX_CHECKS
            while sum(len(connection.ended) for connection in connections) < refused:
                await asyncio.sleep(0.02)
        await asyncio.to_thread(attacked.check)


@pytest.mark.parametrize(
    "count", [pytest.param(200, id="200"), pytest.param(2_080, id="2080", marks=pytest.mark.long)]
)
async def test_unread_health_checks_leave_calls_for_others(attacked: Attacked, count: int) -> None:
    """Finding N-03: one unread check on each of 2,080 connections occupied all calls."""
    lines = len(attacked.stack.lines)
    async with grpc.aio.insecure_channel(attacked.stack.grpc) as channel, AsyncExitStack() as held:
        health = health_pb2_grpc.HealthStub(channel)
        connections = []
        for number in range(count):
            connection = await held.enter_async_context(
                raw_connection(attacked.grpc_port, response_window=0)
            )
            await connection.start_call(CHECK, [TIMEOUT], grpc_message(b""))
            connections.append(connection)
            if number % 100 == 0:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        async with asyncio.timeout(60):
            while sum(len(each.ended) for each in connections) < len(connections) - MAX_CHECKS - 1:
                await health.Check(health_pb2.HealthCheckRequest(), timeout=30)
                await asyncio.sleep(0.1)
        await asyncio.to_thread(attacked.check)
    await asyncio.to_thread(attacked.check)
    assert not [line for line in list(attacked.stack.lines)[lines:] if " error " in line]


async def test_half_sent_messages_of_strangers_end_at_once(attacked: Attacked) -> None:
    """Attack A10: half-sent messages were held until the connection ended."""
    half = grpc_message(bytes(4 * MIB - 100))[:DEFAULT_WINDOW]
    async with asyncio.timeout(60), raw_connection(attacked.grpc_port) as connection:
        for _ in range(24):
            await connection.until_ended(await connection.start_call(LIST, [TIMEOUT], half))


@pytest.mark.long
async def test_calls_with_a_closed_window_do_not_delay_the_drain(attacked: Attacked) -> None:
    """Attack A9: one watcher that did not read kept the process alive after SIGTERM."""
    lines = len(attacked.stack.lines)
    async with raw_connection(attacked.grpc_port, response_window=0) as connection:
        for path in (WATCH, CHECK, LIST):
            for _ in range(20):
                await connection.start_call(path, [TIMEOUT], grpc_message(b""))
        attacked.stack.kill("gateway", signal.SIGTERM)
        exited = await asyncio.to_thread(
            attacked.stack.wait_for_line, "gateway exited", since=lines
        )
    assert "exit 0" in exited
    await asyncio.to_thread(attacked.check_answered)
    attacked.record()
