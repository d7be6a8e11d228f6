"""Health of a server over real sockets: closed names, limits, watchers, drain, half-sent messages.

Findings S-01, S-02, S-03, S-03b and S-16. Clients that break the rules are raw HTTP/2 connections.
"""

import asyncio
import logging
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY, make_wsgi_app, start_http_server
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from infra.run.embedded.layout import free_port
from services.chassis import health
from services.chassis.calls import request_reader
from services.chassis.errors import DeadlineExceededError, ResourceExhaustedError, from_rpc
from services.chassis.health import HttpHealth
from services.chassis.server import Registration, serving
from services.chassis.settings import ServiceSettings
from tests.support.http2 import grpc_message, raw_connection

NAME = "thumbwheel.enhancer.v1.EnhancerService"
CHECK, WATCH = b"/grpc.health.v1.Health/Check", b"/grpc.health.v1.Health/Watch"
ENHANCE = f"/{NAME}/Enhance".encode()
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
FOREVER = (b"grpc-timeout", b"600S")
# A guard against hanging tests, not an assertion.
PATIENCE_SECONDS = 20.0


class Enhancer(enhancer_pb2_grpc.EnhancerServiceServicer):
    """Answers with the text of the request."""

    async def Enhance(
        self, request: enhancer_pb2.EnhanceRequest, context: Any
    ) -> enhancer_pb2.EnhanceResponse:
        return enhancer_pb2.EnhanceResponse(text=request.text)


@asynccontextmanager
async def service(**changes: Any) -> AsyncIterator[int]:
    values = {"port": 0, "drain_seconds": 1.0, "lame_duck_seconds": 0.0, **changes}
    registration = Registration(
        NAME, enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server, Enhancer()
    )
    async with (
        asyncio.timeout(PATIENCE_SECONDS),
        serving(ServiceSettings.model_validate(values), [registration]) as port,
    ):
        yield port


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Any]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


def named(name: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def enhance(channel: Any) -> None:
    stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
    answer = await stub.Enhance(enhancer_pb2.EnhanceRequest(text="hello"), timeout=5)
    assert answer.text == "hello"


@pytest.mark.parametrize("name", ["", NAME])
async def test_registered_names_are_serving(name: str) -> None:
    async with service() as port, client(port) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(named(name), timeout=5)).status == SERVING
        assert (await stub.Watch(named(name), timeout=5).read()).status == SERVING


@pytest.mark.parametrize("method", ["Check", "Watch"])
@pytest.mark.parametrize("name", ["x", "a" * 1_000_000], ids=["short", "long"])
async def test_unknown_name_is_not_found_and_not_kept(method: str, name: str) -> None:
    """Finding S-01: Watch kept each name of up to 4 MiB for as long as its stream."""
    async with service() as port, client(port) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        call = stub.Check if method == "Check" else lambda *a, **k: stub.Watch(*a, **k).read()
        assert await code_of(call(named(name), timeout=5)) is grpc.StatusCode.NOT_FOUND


async def test_watch_is_unimplemented_without_watchers() -> None:
    """Finding S-01: a public server has no streams without a deadline."""
    async with service(max_health_watchers=0) as port, client(port) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(named(), timeout=5)
        assert await code_of(call.read()) is grpc.StatusCode.UNIMPLEMENTED
        assert (await stub.Check(named(), timeout=5)).status == SERVING


@pytest.mark.parametrize("is_on", [False, True])
async def test_reflection_is_a_setting(*, is_on: bool) -> None:
    """Finding S-01: reflection streams have no deadline and are off by default."""
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    async with service(reflection=is_on) as port, client(port) as channel:
        call = channel.unary_stream(path)(b"\x3a\x00", timeout=5)
        if is_on:
            assert NAME.encode() in await call.read()
        else:
            assert await code_of(call.read()) is grpc.StatusCode.UNIMPLEMENTED


async def test_watchers_are_limited_and_a_slot_is_freed() -> None:
    """Finding S-02: watchers could occupy all calls of a server."""
    async with service(max_health_watchers=2) as port, client(port) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watchers = [stub.Watch(named(), timeout=30) for _ in range(2)]
        for watcher in watchers:
            assert (await watcher.read()).status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Watch(named(), timeout=5).read()
        assert isinstance(error := from_rpc(caught.value, "enhancer"), ResourceExhaustedError)
        assert (error.reason, error.limit) == ("TOO_MANY_HEALTH_CALLS", "2 at once")
        watchers[0].cancel()
        while True:
            try:
                assert (await stub.Watch(named(), timeout=5).read()).status == SERVING
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)


async def test_watcher_that_leaves_does_not_affect_others() -> None:
    """Finding S-03b: after the first watcher left, the others saw no NOT_SERVING."""
    async with AsyncExitStack() as clients:
        async with service(lame_duck_seconds=0.2) as port:
            channels = [await clients.enter_async_context(client(port)) for _ in range(3)]
            calls = [
                health_pb2_grpc.HealthStub(channel).Watch(named(), timeout=30)
                for channel in channels
            ]
            for call in calls:
                assert (await call.read()).status == SERVING
            calls[0].cancel()
            await channels[0].close()
            # The server handles the end of the first call before this answer.
            await enhance(channels[1])
        for call in calls[1:]:
            assert (await call.read()).status == NOT_SERVING
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK


async def test_watcher_that_does_not_read_delays_neither_others_nor_the_drain() -> None:
    """Finding S-03: one closed window held a lock, so that SIGTERM never ended the process."""
    async with AsyncExitStack() as clients:
        async with service(lame_duck_seconds=0.1, drain_seconds=0.2) as port:
            stalled = await clients.enter_async_context(raw_connection(port, response_window=0))
            await stalled.start_call(WATCH, data=grpc_message(b""))
            channel = await clients.enter_async_context(client(port))
            await enhance(channel)
            call = health_pb2_grpc.HealthStub(channel).Watch(named(), timeout=30)
            assert (await call.read()).status == SERVING
            assert not stalled.received
        assert (await call.read()).status == NOT_SERVING


async def test_watcher_that_does_not_read_is_disconnected_in_time() -> None:
    """Finding S-03: a write to a watcher has a time limit, after which its slot is free."""
    limits = {"max_write_seconds": 0.1, "max_health_watchers": 1}
    async with service(**limits) as port, raw_connection(port, response_window=0) as stalled:
        await stalled.start_call(WATCH, data=grpc_message(b""))
        async with client(port) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                try:
                    assert (await stub.Watch(named(), timeout=5).read()).status == SERVING
                    break
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                    await asyncio.sleep(0.02)


async def test_unfinished_checks_are_limited_by_connection_and_leave_room_for_others() -> None:
    """Finding S-02: checks without a deadline, whose response is not read, occupied all calls."""
    async with service(max_concurrent_rpcs=50) as port, AsyncExitStack() as clients:
        stalled = [
            await clients.enter_async_context(raw_connection(port, response_window=0))
            for _ in range(3)
        ]
        for connection in stalled:
            for _ in range(200):
                await connection.start_call(CHECK, data=grpc_message(b""))
            while len(connection.ended) < 200 - health.MAX_CONNECTION_CHECKS:
                await connection.changed()
            assert len(connection.ended) == 200 - health.MAX_CONNECTION_CHECKS
        channel = await clients.enter_async_context(client(port))
        stub = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(named(), timeout=5)).status == SERVING
        await enhance(channel)


async def test_new_health_check_ends_the_oldest_unfinished_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Findings S-02, N-03: the first check of each connection held its slot without a limit."""
    monkeypatch.setattr(health, "MAX_CHECKS", 4)
    async with service() as port, AsyncExitStack() as clients:
        stalled = [
            await clients.enter_async_context(raw_connection(port, response_window=0))
            for _ in range(8)
        ]
        channel = await clients.enter_async_context(client(port))
        stub = health_pb2_grpc.HealthStub(channel)
        # Something in grpc.aio refers to the first call of a server, so that `end_call` has no
        # effect on it.
        assert (await stub.Check(named(), timeout=5)).status == SERVING
        for connection in stalled:
            await connection.start_call(CHECK, [FOREVER], grpc_message(b""))
        while sum(len(connection.ended) for connection in stalled) < 4:
            await asyncio.sleep(0.01)
        for _ in range(3):
            assert (await stub.Check(named(), timeout=5)).status == SERVING


def unread(path: bytes) -> float:
    labels = {"method": path.rsplit(b"/", 1)[-1].decode()}
    return REGISTRY.get_sample_value("thumbwheel_rpcs_unread", labels) or 0.0


@pytest.mark.parametrize("path", [CHECK, WATCH, ENHANCE], ids=["check", "watch", "call"])
async def test_unread_answers_end_in_time_and_free_their_slots(
    path: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Findings N-01, N-03: answers without a reader held all slots until the client's deadline."""
    monkeypatch.setattr(health, "MAX_CHECKS", 4)
    limits = {"max_concurrent_rpcs": 10, "max_health_watchers": 4, "max_write_seconds": 0.3}
    async with service(**limits) as port, AsyncExitStack() as clients:
        channel = await clients.enter_async_context(client(port))
        await enhance(channel)
        async with raw_connection(port, response_window=0) as stalled:
            # Until a call ends: refused, or at its time limit.
            while not stalled.ended:
                await stalled.start_call(path, [FOREVER], grpc_message(b""))
                await asyncio.sleep(0.002)
            assert unread(path) > 0
            while unread(path):
                await asyncio.sleep(0.01)
            await enhance(channel)
            assert not stalled.received
            # The connection is lost while an answer is unread.
            await stalled.start_call(path, [FOREVER], grpc_message(b""))
            while not unread(path):
                await asyncio.sleep(0.01)
        while unread(path):
            await asyncio.sleep(0.01)
        await enhance(channel)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("path", [CHECK, ENHANCE], ids=["check", "call"])
async def test_half_sent_message_ends_at_its_time_limit(
    path: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding S-16: no limit applied before a message was complete."""
    monkeypatch.setattr(health, "REQUEST_SECONDS", 0.1)
    async with service(max_request_seconds=0.1) as port, raw_connection(port) as connection:
        half = grpc_message(bytes(100_000))[:-1]
        stream = await connection.start_call(path, [(b"grpc-timeout", b"60S")], half)
        await connection.until_ended(stream)
        async with client(port) as channel:
            await enhance(channel)


async def test_slow_message_error_names_field_and_limit() -> None:
    """Finding S-16: an honest slow client learns the limit."""

    async def never() -> AsyncIterator[bytes]:
        await asyncio.sleep(PATIENCE_SECONDS)
        yield b""

    async with service(max_request_seconds=0.1) as port, client(port) as channel:
        call = channel.stream_unary(ENHANCE.decode())(never(), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert isinstance(error := from_rpc(caught.value, "enhancer"), DeadlineExceededError)
        assert (error.field, error.reason, error.limit) == ("request", "REQUEST_TOO_SLOW", "0.1 s")


async def test_slow_messages_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding S-16: incomplete messages hold a bounded amount of memory."""
    monkeypatch.setattr(request_reader, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(request_reader, "MAX_SLOW_REQUESTS", 3)
    async with service() as port, raw_connection(port) as connection:
        half = grpc_message(bytes(1_000))[:-1]
        for _ in range(10):
            await connection.start_call(ENHANCE, [(b"grpc-timeout", b"60S")], half)
        while len(connection.ended) < 7:
            await connection.changed()
        async with client(port) as channel:
            await enhance(channel)
        assert len(connection.ended) == 7


async def test_http_health_follows_the_service_and_its_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Finding S-02: probes of Kubernetes use the metrics port, which strangers cannot reach."""
    probe, port = HttpHealth(asyncio.get_running_loop()), free_port()
    server, thread = start_http_server(port, "127.0.0.1")
    server.set_app(probe.around(make_wsgi_app()))

    def status(path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    try:
        assert await asyncio.to_thread(status, "/health") == 503
        probe.is_serving = True
        assert await asyncio.to_thread(status, "/health") == 200
        assert await asyncio.to_thread(status, "/metrics") == 200
        monkeypatch.setattr(health, "LOOP_SECONDS", 0.05)
        # The event loop is blocked.
        assert status("/health") == 503
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
