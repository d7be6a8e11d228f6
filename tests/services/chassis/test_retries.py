"""Retries of calls: methods marked by the protos, as often as the server allows."""

import time

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2
from thumbwheel.generator.v1 import generator_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.channel import open_channel
from services.chassis.retries import is_idempotent, is_retryable, retry_delay
from tests.faults.replica import in_process_replica

PROTOS = (chat_pb2, enhancer_pb2, feedback_pb2, generator_pb2, guardrail_pb2, session_pb2)
BEGIN_TURN = "/thumbwheel.session.v1.SessionService/BeginTurn"
SEND_MESSAGE = "/thumbwheel.chat.v1.ChatService/SendMessage"


async def calls_of(
    text: str, *protos: FileDescriptor, seconds: float = 10
) -> tuple[int, grpc.StatusCode, float]:
    """Return attempts seen by the server, status code and duration in seconds of a failing call."""
    async with in_process_replica() as replica, open_channel(replica.target, *protos) as channel:
        stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(enhancer_pb2.EnhanceRequest(text=text), timeout=seconds)
        return replica.calls[text.split()[0]], caught.value.code(), time.monotonic() - began


def test_every_method_but_one_is_idempotent() -> None:
    services = [
        service for proto in PROTOS for service in proto.DESCRIPTOR.services_by_name.values()
    ]
    unmarked = {
        method.name
        for service in services
        for method in service.methods
        if not is_idempotent(method)
    }
    assert unmarked == {"SendMessage"}


def test_request_with_a_key_field_is_retryable_only_with_a_key() -> None:
    assert is_retryable(BEGIN_TURN, session_pb2.BeginTurnRequest(request_id="key"))
    assert not is_retryable(BEGIN_TURN, session_pb2.BeginTurnRequest())
    assert is_retryable(SEND_MESSAGE, chat_pb2.SendMessageRequest(request_id="key"))
    assert not is_retryable(SEND_MESSAGE, chat_pb2.SendMessageRequest())


async def test_idempotent_method_is_tried_three_times_while_unavailable() -> None:
    seen, code, _ = await calls_of("away", enhancer_pb2.DESCRIPTOR)
    assert (seen, code) == (3, grpc.StatusCode.UNAVAILABLE)


async def test_channel_without_the_proto_does_not_retry() -> None:
    seen, _, _ = await calls_of("away")
    assert seen == 1


async def test_overloaded_service_is_retried_once_after_its_retry_delay() -> None:
    seen, code, took_seconds = await calls_of("full 0.3", enhancer_pb2.DESCRIPTOR)
    assert (seen, code) == (2, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert took_seconds >= 0.3


async def test_overloaded_service_is_not_retried_close_to_the_deadline() -> None:
    seen, code, _ = await calls_of("full 2", enhancer_pb2.DESCRIPTOR, seconds=3)
    assert (seen, code) == (1, grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_refusal_without_a_retry_delay_is_final() -> None:
    seen, code, _ = await calls_of("full 0", enhancer_pb2.DESCRIPTOR)
    assert (seen, code) == (1, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_delays_are_spread_below_a_bound_that_doubles() -> None:
    for failures, bound in ((1, 0.25), (2, 0.5), (4, 2.0), (7, 10.0), (10_000, 10.0)):
        delays = [retry_delay(failures, 0.25, 10.0) for _ in range(400)]
        assert 0 <= min(delays) < 0.1 * bound
        assert 0.9 * bound < max(delays) <= bound
    assert max(retry_delay(9, 0.25, 10.0, left_seconds=1.0) for _ in range(400)) <= 0.5
