"""F41: a client with a retry policy of its own does not multiply a message that has no key.

grpc.aio sends a refused SendMessage again, because no message came back yet; without a request_id
each try would leave a turn.
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


async def send_eagerly(gateway: GatewayUnderTest, **fields: Any) -> grpc.StatusCode:
    """Through a channel that retries whatever it can."""
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


async def test_a_message_without_a_key_leaves_one_turn_when_the_guard_is_away(
    tmp_path: Path,
) -> None:
    async with run_gateway(tmp_path) as gateway:
        gateway.fakes.guardrail.away = True
        assert await send_eagerly(gateway) is grpc.StatusCode.UNAVAILABLE
        assert len(gateway.fakes.session.requests) == 1


async def test_a_message_with_a_key_may_be_sent_again_and_leaves_one_turn(tmp_path: Path) -> None:
    async with run_gateway(tmp_path) as gateway:
        gateway.fakes.guardrail.away = True
        assert await send_eagerly(gateway, request_id="key") is grpc.StatusCode.UNAVAILABLE
        assert await send_eagerly(gateway, request_id="key") is grpc.StatusCode.UNAVAILABLE
        assert len(gateway.fakes.session.requests) == 1
