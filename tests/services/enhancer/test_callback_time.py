"""CPU time of the event loop for the largest request of each RPC.

Finding S-04. The limit of a callback is 50 ms of CPU time; the tests allow three times as much.
"""

import grpc
import pytest
from thumbwheel.enhancer.v1 import enhancer_pb2

from services.enhancer.prompt import Enhancer
from tests.services.enhancer.service import client
from tests.support.loop_time import MAX_CALLBACK_SECONDS, measure_callbacks

ERRORS = "teh recieve , i dont wat , "


@pytest.mark.parametrize(
    "text",
    [
        (ERRORS * 300)[:8_000],
        (ERRORS * 20)[:200],
        "aé" * 200,
        "\U0001f600" * 32_768,
    ],
    ids=["many errors", "typed errors", "one word", "longest"],
)
async def test_largest_texts_take_little_time(enhancer: Enhancer, text: str) -> None:
    async with client(enhancer) as stub:
        with measure_callbacks() as longest:
            await stub.Enhance(enhancer_pb2.EnhanceRequest(text=text), timeout=30)
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


async def test_message_beyond_the_receive_limit_is_refused(enhancer: Enhancer) -> None:
    async with client(enhancer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(enhancer_pb2.EnhanceRequest(text="a" * 256 * 1024), timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
