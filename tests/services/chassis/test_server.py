"""The chassis over a real socket: errors, deadlines, identity, invalid requests, health, drain."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis.calls import answers
from services.chassis.calls.interceptor import INTERNAL_TEXT
from services.chassis.channel import call_unary, open_channel
from services.chassis.errors import (
    DETAILS_KEY,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    from_rpc,
)
from services.chassis.identity import CallContext, Caller, bind_call, current_call, require_caller
from services.chassis.server import MAX_OPEN_FILES, Registration, raise_open_files, serving
from services.chassis.settings import ServiceSettings
from tests.support.errors import refused
from tests.support.http2 import grpc_message, raw_connection

NAME = "thumbwheel.enhancer.v1.EnhancerService"


class Echo(enhancer_pb2_grpc.EnhancerServiceServicer):
    """Answers, fails or waits, as the text of the request demands."""

    def __init__(self) -> None:
        self.remaining_seconds = 0.0
        self.waiting, self.release = 0, asyncio.Event()

    async def Enhance(
        self, request: enhancer_pb2.EnhanceRequest, context: Any
    ) -> enhancer_pb2.EnhanceResponse:
        if request.text == "wrong":
            raise InvalidArgumentError("text is too long", field="text", limit="3 characters")
        if request.text == "crash":
            raise RuntimeError(f"the user said {request.text}")
        if request.text == "wait":
            self.waiting += 1
            await self.release.wait()
        self.remaining_seconds = current_call().remaining_seconds(1000)
        return enhancer_pb2.EnhanceResponse(text=require_caller().key)


@asynccontextmanager
async def echo_service(**changes: Any) -> AsyncIterator[tuple[Echo, int]]:
    echo = Echo()
    add = enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server
    values = {"port": 0, "drain_seconds": 5, "lame_duck_seconds": 0, **changes}
    async with serving(
        ServiceSettings.model_validate(values), [Registration(NAME, add, echo)]
    ) as port:
        yield echo, port


@asynccontextmanager
async def echo_client(**changes: Any) -> AsyncIterator[tuple[Echo, Any, grpc.aio.Channel]]:
    async with (
        echo_service(**changes) as (echo, port),
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield echo, enhancer_pb2_grpc.EnhancerServiceStub(channel), channel


def ask(text: str) -> enhancer_pb2.EnhanceRequest:
    return enhancer_pb2.EnhanceRequest(text=text)


async def test_domain_error_has_field_and_limit_in_one_error_info() -> None:
    async with echo_client() as (_, stub, _channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(ask("wrong"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    status = status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())[DETAILS_KEY])
    info = error_details_pb2.ErrorInfo()
    assert len(status.details) == 1
    assert status.details[0].Unpack(info)
    assert dict(info.metadata) == {"field": "text", "limit": "3 characters"}


async def test_domain_error_passes_through_a_client_unchanged() -> None:
    async with echo_client() as (_, stub, _channel):
        with refused(InvalidArgumentError, field="text", limit="3 characters"):
            await call_unary("enhancer", stub.Enhance, ask("wrong"), within_seconds=5)


@pytest.mark.parametrize("text", ["hello", "wrong", "crash"])
async def test_traced_call_has_its_trace_id_in_the_trailing_metadata(text: str) -> None:
    number = "5e0c63257de34c92bf9efcd03927272e"
    traced = (
        ("traceparent", f"00-{number}-00f067aa0ba902b7-01"),
        ("x-tw-tenant", "acme"),
        ("x-tw-user", "ada"),
    )
    async with echo_client() as (_, stub, _channel):
        for metadata, found in ((traced, number), (traced[1:], None)):
            call = stub.Enhance(ask(text), timeout=5, metadata=metadata)
            assert (await call.code() is grpc.StatusCode.OK) is (text == "hello")
            assert dict(await call.trailing_metadata()).get("x-trace-id") == found
            assert "x-trace-id" not in dict(await call.initial_metadata())


async def test_unknown_error_reaches_the_caller_with_a_fixed_text() -> None:
    async with echo_client() as (_, stub, _channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(ask("crash"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == INTERNAL_TEXT


async def test_call_without_a_deadline_is_refused() -> None:
    async with echo_client() as (_, stub, _channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(ask("hello"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_malformed_request_is_an_invalid_argument_without_class_names() -> None:
    async with echo_client() as (_, _stub, channel):
        raw = channel.unary_unary(f"/{NAME}/Enhance")
        for body in (b"\x0a\x02\xff\xfe", b"\xff"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw(body, timeout=5)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert from_rpc(caught.value, "enhancer").field == "request"
            assert "pb2" not in (caught.value.details() or "")


async def test_identity_and_reduced_deadline_reach_the_next_hop() -> None:
    async with echo_client() as (echo, stub, _channel):
        loop = asyncio.get_running_loop()
        bind_call(CallContext(Caller("acme", "ada"), "request", loop.time() + 3))
        response = await call_unary("enhancer", stub.Enhance, ask("hello"), within_seconds=60)
    assert response.text == "acme/ada"
    assert 0 < echo.remaining_seconds < 3


async def test_call_without_a_user_is_unauthenticated() -> None:
    async with echo_client() as (_, stub, _channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(ask("hello"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_open_calls_of_one_caller_are_limited() -> None:
    """Finding N-01: one key could occupy all calls of a server."""
    ada = (("x-tw-tenant", "acme"), ("x-tw-user", "ada"))
    bob = (*ada[:1], ("x-tw-user", "bob"))
    async with echo_client(max_caller_rpcs=2) as (echo, stub, _channel):
        running = [stub.Enhance(ask("wait"), timeout=10, metadata=ada) for _ in range(2)]
        while echo.waiting < 2:
            await asyncio.sleep(0.001)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(ask("hello"), timeout=5, metadata=ada)
        error = from_rpc(caught.value, "enhancer")
        assert (error.reason, error.limit) == ("TOO_MANY_CALLS", "2 calls of a key at once")
        assert (await stub.Enhance(ask("hello"), timeout=5, metadata=bob)).text == "acme/bob"
        echo.release.set()
        await asyncio.gather(*running)
        assert (await stub.Enhance(ask("hello"), timeout=5, metadata=ada)).text == "acme/ada"


async def test_unread_answers_of_one_caller_are_limited_in_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Finding N-01: 500 unread pages of a conversation would be 250 MiB."""
    monkeypatch.setattr(answers, "MAX_UNREAD_BYTES", 10)
    ada = [(b"x-tw-tenant", b"acme"), (b"x-tw-user", b"ada"), (b"grpc-timeout", b"60S")]
    async with (
        asyncio.timeout(20),
        echo_service(max_caller_rpcs=100) as (_, port),
        open_channel(f"127.0.0.1:{port}") as channel,
        raw_connection(port, response_window=0) as stalled,
    ):
        for _ in range(3):
            await stalled.start_call(f"/{NAME}/Enhance".encode(), ada, grpc_message(b""))
        # Trailers have no window: refused calls end at once.
        while len(stalled.ended) < 2:
            await stalled.changed()
        metadata = (("x-tw-tenant", "acme"), ("x-tw-user", "bob"))
        stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
        assert (await stub.Enhance(ask("hello"), timeout=5, metadata=metadata)).text == "acme/bob"


async def test_unreachable_peer_is_unavailable_and_named() -> None:
    async with open_channel("127.0.0.1:1") as channel:
        stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
        with refused(UnavailableError, reason="ENHANCER_UNAVAILABLE"):
            await call_unary("enhancer", stub.Enhance, ask("hello"), within_seconds=5)


async def test_unimplemented_method_of_a_peer_is_unavailable() -> None:
    async with echo_client() as (_, _stub, channel):
        method = channel.unary_unary("/thumbwheel.enhancer.v1.EnhancerService/Nothing")
        with pytest.raises(UnavailableError):
            await call_unary("enhancer", method, b"", within_seconds=5)
    assert not issubclass(UnavailableError, NotFoundError)


async def test_health_is_reported_by_service_and_running_calls_survive_the_drain() -> None:
    service = echo_service()
    echo, port = await service.__aenter__()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=NAME), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
        metadata = (("x-tw-tenant", "acme"), ("x-tw-user", "ada"))
        running = asyncio.ensure_future(stub.Enhance(ask("wait"), timeout=10, metadata=metadata))
        await asyncio.sleep(0.2)
        asyncio.get_running_loop().call_later(0.3, echo.release.set)
        await service.__aexit__(None, None, None)
        assert (await running).text == "acme/ada"


async def test_connections_beyond_the_limit_are_closed() -> None:
    add = enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server
    settings = ServiceSettings(port=0, drain_seconds=0, lame_duck_seconds=0, max_connections=3)
    async with (
        asyncio.timeout(20),
        serving(settings, [Registration(NAME, add, Echo())]) as port,
        AsyncExitStack() as held,
    ):
        for _ in range(3):
            await held.enter_async_context(raw_connection(port))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        held.callback(writer.close)
        with suppress(ConnectionError):
            assert await reader.read() == b""


def test_limit_of_open_files_is_raised() -> None:
    """1,000 connections of strangers otherwise reach the usual limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(before[1], MAX_OPEN_FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
