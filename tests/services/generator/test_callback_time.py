"""CPU time of the event loop for the largest request of each RPC.

Finding S-04. The limit of a callback is 50 ms of CPU time; the tests allow three times as much.
"""

from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2

from services.chassis.errors import from_rpc
from services.contracts.limits import MAX_CONTEXT_MESSAGES
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import generator_service, text_of, until_ready
from tests.support.loop_time import MAX_CALLBACK_SECONDS, measure_callbacks

EMOJI = "\U0001f600"


def context(count: int, text: str) -> generator_pb2.GenerateRequest:
    message = chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text=text)
    return generator_pb2.GenerateRequest(user_key="acme/ada", messages=[message] * count)


async def test_too_many_messages_are_refused_in_little_time(tmp_path: Path) -> None:
    request = context(900_000, "")
    async with generator_service(tmp_path, 1) as stubs:
        with measure_callbacks() as longest, pytest.raises(grpc.aio.AioRpcError) as caught:
            await collected(stubs.generator.Generate(request, timeout=20))
    error = from_rpc(caught.value, "generator")
    assert (error.field, error.limit) == ("messages", "at most 20,000")
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


@pytest.mark.parametrize(
    ("count", "text"), [(MAX_CONTEXT_MESSAGES, "a"), (31, EMOJI * 32_768), (127, "a" * 32_768)]
)
async def test_largest_contexts_are_answered_in_little_time(
    tmp_path: Path, count: int, text: str
) -> None:
    async with (
        predictor_server(FakePredictor()) as port,
        generator_service(tmp_path, port) as stubs,
    ):
        await until_ready(stubs, "v1")
        with measure_callbacks() as longest:
            events = await collected(stubs.generator.Generate(context(count, text), timeout=20))
            await stubs.state()
    assert text_of(events) == "Hello there."
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


async def collected(call: Any) -> list[Any]:
    return [event async for event in call]
