"""F11: one request is sent five times to two gateways, at once or slightly later.

The result is one turn with one answer and equal ids and events.
"""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.chat.v1 import chat_pb2

from tests.servers import ValkeyServer
from tests.services.gateway.calls import collect, counter_value, sequences
from tests.services.gateway.gateway_under_test import GatewayUnderTest, text_of
from tests.services.gateway.two_gateways import two_gateways


async def send_often(
    gateways: tuple[GatewayUnderTest, GatewayUnderTest], request_id: str, seed: int
) -> list[list[chat_pb2.ChatEvent]]:
    """Send the request five times, each to a random gateway at a random moment."""
    chance = random.Random(f"{seed} {request_id}")

    async def send() -> list[chat_pb2.ChatEvent]:
        await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02, 0.2]))
        return await collect(
            chance.choice(gateways).send(request_id, request_id=request_id, timeout=30)
        )

    return await asyncio.gather(*(send() for _ in range(5)))


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 20))]
)
async def test_a_request_sent_five_times_is_one_turn(
    tmp_path: Path, valkey: ValkeyServer, seed: int, record_property: Any
) -> None:
    followed = counter_value("thumbwheel_gateway_claims_total", claim="elsewhere")
    async with two_gateways(tmp_path, valkey.database()) as both:
        fakes = both[0].fakes

        async def at_its_pace(number: int) -> None:
            await asyncio.sleep(0.03)

        fakes.generator.gate = at_its_pace
        requests = [f"request {number}" for number in range(12)]
        sent = await asyncio.gather(
            *(send_often(both, request_id, seed) for request_id in requests)
        )
    record_property("fired", 4 * len(requests))
    for answers in sent:
        assert all(answer == answers[0] for answer in answers)
        assert sequences(answers[0]) == list(range(1, len(answers[0]) + 1))
        assert text_of(answers[0]) == "The answer is 42."
    assert len({answers[0][0].message_id for answers in sent}) == len(requests)
    assert len(fakes.generator.requests) == len(requests)
    assert len(fakes.session.messages) == 2 * len(requests)
    # Some requests met at two gateways.
    assert counter_value("thumbwheel_gateway_claims_total", claim="elsewhere") > followed
