"""Calls of strangers on the public gRPC port: health, reflection, messages without a key.

Findings S-01, S-02 and S-16.
"""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.chassis.health import MAX_CONNECTION_CHECKS
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway
from tests.support.http2 import DEFAULT_WINDOW, grpc_message, raw_connection

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIST = b"/thumbwheel.chat.v1.ChatService/ListConversations"
TIMEOUT = (b"grpc-timeout", b"60S")


def port_of(gateway: GatewayUnderTest) -> int:
    return int(gateway.grpc_target.rpartition(":")[2])


@pytest.mark.parametrize(
    "path",
    [
        "grpc.health.v1.Health/Watch",
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_streams_without_a_key_are_unimplemented(
    shared_gateway: GatewayUnderTest, path: str
) -> None:
    """Finding S-01: Watch and reflection bypassed the key, the deadline and the admission."""
    channel: Any = shared_gateway.channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_stream(f"/{path}")(b"", timeout=5).read()
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_check_answers_for_the_public_services_only(
    shared_gateway: GatewayUnderTest,
) -> None:
    """Finding S-01: the names of health checks are a closed list."""
    stub = health_pb2_grpc.HealthStub(shared_gateway.channel)
    public = ("", "thumbwheel.chat.v1.ChatService", "thumbwheel.feedback.v1.FeedbackService")
    for name in public:
        request = health_pb2.HealthCheckRequest(service=name)
        answer = await stub.Check(request, timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    for name in ("thumbwheel.session.v1.SessionService", "x" * 500_000):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_call_without_a_key_ends_before_its_message_is_received(
    shared_gateway: GatewayUnderTest,
) -> None:
    """Finding S-16: 24 half-sent messages of strangers held 100 MB until the connection ended."""
    half = grpc_message(bytes(DEFAULT_WINDOW))[:DEFAULT_WINDOW]
    async with asyncio.timeout(20), raw_connection(port_of(shared_gateway)) as connection:
        for _ in range(24):
            await connection.until_ended(await connection.start_call(LIST, [TIMEOUT], half))


async def test_streams_of_strangers_leave_room_for_calls_with_a_key(tmp_path: Path) -> None:
    """Finding S-02: eight connections of strangers occupied all calls of a gateway."""
    async with (
        asyncio.timeout(20),
        run_gateway(tmp_path, max_concurrent_rpcs=50) as gateway,
        raw_connection(port_of(gateway), response_window=0) as first,
        raw_connection(port_of(gateway), response_window=0) as second,
    ):
        for connection in (first, second):
            for path in (LIST, b"/grpc.health.v1.Health/Watch", b"/grpc.health.v1.Health/Check"):
                for _ in range(60):
                    await connection.start_call(path, [TIMEOUT], grpc_message(b"")[:-1])
            while len(connection.ended) < 180 - MAX_CONNECTION_CHECKS:
                await connection.changed()
        events = await gateway.ask()
        assert events[-1].HasField("completed")
        stub = health_pb2_grpc.HealthStub(gateway.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
