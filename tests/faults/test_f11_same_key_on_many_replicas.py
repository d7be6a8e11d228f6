"""F11 and F12: one key is sent to five replicas concurrently.

Equal contents are one event; with two contents the first wins on all replicas.
"""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest

from tests.faults.feedback import (
    Clients,
    Stack,
    current,
    local_replica,
    metric_value,
    record,
    wait_until_sunk,
)
from tests.services.feedback.samples import thumb

REPLICAS = 5
KEYS = 20


@pytest.mark.long
@pytest.mark.slow
async def test_f11_f12_the_same_key_on_five_replicas(
    feedback_stack: Stack, record_property: Any
) -> None:
    tombstones = metric_value("tombstones_total", stream="feedback")
    async with AsyncExitStack() as running:
        stubs = [
            await running.enter_async_context(local_replica(feedback_stack, number))
            for number in range(REPLICAS)
        ]
        clients = Clients(stubs)
        for key in range(KEYS):
            await one_key(clients, stubs, f"m{key}")
        await wait_until_sunk(feedback_stack, clients.history)
        assert metric_value("tombstones_total", stream="feedback") > tombstones, (
            "no replica stored what another one had"
        )
        for key in range(KEYS):
            assert await current(stubs[key % REPLICAS], f"m{key}") == {f"m{key}": key % 2 == 0}
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", 2 * KEYS * REPLICAS)
    assert {row["message_id"]: row["up"] for row in feedback_stack.rows()} == {
        thumb("x", message=f"m{key}").message_id: key % 2 == 0 for key in range(KEYS)
    }


async def one_key(clients: Clients, stubs: list, message: str) -> None:
    up = int(message[1:]) % 2 == 0
    event, other = (
        thumb(message, up=up, message=message),
        thumb(message, up=not up, message=message),
    )
    answers = await asyncio.gather(*(record(stub, event) for stub in stubs))
    assert len({answer.SerializeToString() for answer in answers}) == 1
    clients.history.sent[message] = [event.event_id]
    clients.history.acknowledged.add(event.event_id)
    refused = await asyncio.gather(*(record(stub, other) for stub in stubs), return_exceptions=True)
    assert {error.code() for error in refused if isinstance(error, grpc.aio.AioRpcError)} == {
        grpc.StatusCode.ALREADY_EXISTS
    }
    assert len([error for error in refused if isinstance(error, grpc.aio.AioRpcError)]) == REPLICAS
