"""Replaced replicas behind a name, with real sockets and a real DNS server: no call fails."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from services.chassis import channel as channels
from services.chassis.channel import (
    CHANNEL_OPTIONS,
    ReconnectingChannel,
    call_stream,
    open_channel,
)
from services.chassis.errors import DeadlineExceededError
from services.chassis.retries import service_config
from services.chassis.server import Registration, serving
from services.chassis.settings import ServiceSettings
from tests.services.chassis.name_server import NAME, Names, name_server

SERVICE = "thumbwheel.generator.v1.GeneratorService"
FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class Replica(generator_pb2_grpc.GeneratorServiceServicer):
    """Answers with its address, and again after `proceed` is set."""

    def __init__(self, host: str) -> None:
        self.host, self.proceed = host, asyncio.Event()

    async def Generate(
        self, request: Any, context: Any
    ) -> AsyncIterator[generator_pb2.GenerateEvent]:
        yield generator_pb2.GenerateEvent(text_delta=self.host)
        if request.user_key == "stay":
            await self.proceed.wait()
            yield generator_pb2.GenerateEvent(text_delta=self.host)


@asynccontextmanager
async def replica(host: str, port: int = 0) -> AsyncIterator[tuple[Replica, int]]:
    servicer = Replica(host)
    add = generator_pb2_grpc.add_GeneratorServiceServicer_to_server
    settings = ServiceSettings(host=host, port=port, lame_duck_seconds=1.0, drain_seconds=5)
    async with serving(settings, [Registration(SERVICE, add, servicer)]) as bound:
        yield servicer, bound


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Names]:
    """DNS server for gRPC (over UDP) and for the channel (as a fake of libc)."""
    async with name_server(FIRST) as found:
        monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
        monkeypatch.setattr(channels, "CHECK_INTERVAL_SECONDS", 0.05)
        yield found


def target(names: Names, port: int) -> str:
    return f"dns://127.0.0.1:{names.port}/{NAME}:{port}"


async def ask(channel: Any, user_key: str = "go") -> AsyncIterator[str]:
    stub = generator_pb2_grpc.GeneratorServiceStub(channel)
    async for event in stub.Generate(generator_pb2.GenerateRequest(user_key=user_key), timeout=20):
        yield event.text_delta


async def until_answers(channel: Any, host: str) -> None:
    async with asyncio.timeout(10):
        while host not in [text async for text in ask(channel)]:
            await asyncio.sleep(0.01)


async def replace(
    channel: Any, names: Names, first: AsyncExitStack, port: int
) -> list[grpc.StatusCode]:
    """Replace the only replica during constant calls, as a rollout does; return failed codes."""
    failed: list[grpc.StatusCode] = []
    stopped = asyncio.Event()

    async def call() -> None:
        while not stopped.is_set():
            try:
                assert [text async for text in ask(channel)]
            except grpc.aio.AioRpcError as error:
                failed.append(error.code())
            await asyncio.sleep(0.005)

    async with replica(SECOND, port):
        calling = asyncio.create_task(call())
        names.addresses = [FIRST, SECOND]
        await asyncio.sleep(0.5)
        names.addresses = [SECOND]
        await first.aclose()
        await asyncio.sleep(0.2)
        stopped.set()
        await calling
    return failed


async def test_replacement_of_the_only_replica_fails_no_call(names: Names) -> None:
    async with AsyncExitStack() as first:
        _, port = await first.enter_async_context(replica(FIRST))
        async with open_channel(target(names, port)) as channel:
            await until_answers(channel, FIRST)
            assert await replace(channel, names, first, port) == []


async def test_replacement_during_idle_time_is_detected(names: Names) -> None:
    async with AsyncExitStack() as first:
        _, port = await first.enter_async_context(replica(FIRST))
        async with open_channel(target(names, port)) as channel, replica(SECOND, port):
            await until_answers(channel, FIRST)
            names.addresses = [FIRST, SECOND]
            await asyncio.sleep(0.5)
            names.addresses = [SECOND]
            going = asyncio.create_task(first.aclose())
            await asyncio.sleep(0.2)  # the first replica reports NOT_SERVING
            assert [text async for text in ask(channel)] == [SECOND]
            await going


async def test_grpc_channel_detects_replacement_only_after_failed_calls(names: Names) -> None:
    """Control experiment with a plain gRPC channel."""
    options = [("grpc.service_config", service_config([])), *CHANNEL_OPTIONS]
    async with AsyncExitStack() as first:
        _, port = await first.enter_async_context(replica(FIRST))
        async with grpc.aio.insecure_channel(target(names, port), options=options) as channel:
            await until_answers(channel, FIRST)
            assert grpc.StatusCode.UNAVAILABLE in await replace(channel, names, first, port)


async def test_new_replica_gets_calls_while_a_stream_continues_on_the_old(
    names: Names,
) -> None:
    async with (
        replica(FIRST) as (first, port),
        replica(SECOND, port),
        open_channel(target(names, port)) as channel,
    ):
        stream = ask(channel, "stay")
        assert await anext(stream) == FIRST
        names.addresses = [FIRST, SECOND]
        await until_answers(channel, SECOND)
        await until_answers(channel, FIRST)
        first.proceed.set()
        assert [text async for text in stream] == [FIRST]


async def test_failed_reconnect_is_retried(names: Names) -> None:
    """For example while certificate files are being replaced."""
    opened: list[str] = []

    def connect() -> grpc.aio.Channel:
        opened.append("")
        if len(opened) == 2:
            raise OSError("no such file")
        return grpc.aio.insecure_channel(f"{FIRST}:{port}")

    look = iter(range(1_000_000))
    async with (
        replica(FIRST) as (_, port),
        ReconnectingChannel(connect, [lambda: next(look)]) as channel,
    ):
        async with asyncio.timeout(10):
            while len(opened) < 4:
                await until_answers(channel, FIRST)
                await asyncio.sleep(0.01)


async def test_unused_channel_does_not_resolve_names(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name servers would cache that a starting peer does not exist."""
    monkeypatch.setattr(channels, "CHECK_INTERVAL_SECONDS", 60.0)
    async with replica(FIRST) as (_, port), open_channel(target(names, port)) as channel:
        await asyncio.sleep(0.2)
        assert names.asked == 0
        await until_answers(channel, FIRST)
        assert names.asked > 0


async def test_unavailable_name_server_does_not_affect_calls(names: Names) -> None:
    async with replica(FIRST) as (_, port), open_channel(target(names, port)) as channel:
        await until_answers(channel, FIRST)
        names.addresses = []
        for _ in range(20):
            await until_answers(channel, FIRST)
            await asyncio.sleep(0.01)


async def test_late_peer_is_described_without_the_name_of_a_status() -> None:
    request = generator_pb2.GenerateRequest(user_key="stay")
    async with replica(FIRST) as (_, port), open_channel(f"{FIRST}:{port}") as channel:
        generate = generator_pb2_grpc.GeneratorServiceStub(channel).Generate
        with pytest.raises(DeadlineExceededError) as caught:
            async for _ in call_stream("generator", generate, request, within_seconds=0.5):
                pass
    assert "generator" in caught.value.text
    assert "DEADLINE" not in caught.value.text
