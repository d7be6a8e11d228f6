"""F41: the retry policy of a client does not multiply messages without a request_id.

grpc.aio retries a rejected SendMessage, because no response message has arrived. Without a
request_id each attempt would create a turn.
"""

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc

from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway

EAGER = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


async def send_with_retries(gateway: GatewayUnderTest, **fields: Any) -> grpc.StatusCode:
    """Send through a channel with retries for as many codes as possible."""
    options = [("grpc.service_config", json.dumps(EAGER))]
    async with grpc.aio.insecure_channel(gateway.grpc_target, options=options) as channel:
        request = chat_pb2.SendMessageRequest(
            input=chat_pb2.UserInput(text="What is it?"), **fields
        )
        call = chat_pb2_grpc.ChatServiceStub(channel).SendMessage(
            request, timeout=10, metadata=gateway.metadata()
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
        return caught.value.code()


async def test_message_without_request_id_creates_one_turn_without_guard(
    tmp_path: Path,
) -> None:
    async with run_gateway(tmp_path) as gateway:
        gateway.fakes.guardrail.away = True
        assert await send_with_retries(gateway) is grpc.StatusCode.UNAVAILABLE
        assert len(gateway.fakes.session.requests) == 1


async def test_message_with_request_id_can_be_repeated_and_creates_one_turn(tmp_path: Path) -> None:
    async with run_gateway(tmp_path) as gateway:
        gateway.fakes.guardrail.away = True
        assert await send_with_retries(gateway, request_id="key") is grpc.StatusCode.UNAVAILABLE
        assert await send_with_retries(gateway, request_id="key") is grpc.StatusCode.UNAVAILABLE
        assert len(gateway.fakes.session.requests) == 1
