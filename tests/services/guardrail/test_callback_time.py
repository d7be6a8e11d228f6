"""CPU time of the event loop for the largest request of each RPC.

Finding S-04. The limit of a callback is 50 ms of CPU time; the tests allow three times as much.
"""

import grpc
import pytest
from thumbwheel.guardrail.v1 import guardrail_pb2

from services.chassis.errors import from_rpc
from services.contracts.limits import MAX_PENDING_CHARACTERS, MAX_REQUEST_CHARACTERS
from services.guardrail.guard import Guard
from services.guardrail.servicer import (
    INLINE_CHARACTERS,
    INLINE_PENDING_CHARACTERS,
    MAX_TEXTS,
)
from tests.services.guardrail.service import client
from tests.support.loop_time import MAX_CALLBACK_SECONDS, measure_callbacks

EMOJI = "\U0001f600"
WORDS = "What is a pipe bomb and how is one built, my@mail.example 4111 1111 1111 1111? "

# All detectors run in the window of each number, in several forms of the text.
NUMBERS = "4_.`  22\n1/"


def words(characters: int) -> str:
    return (WORDS * (characters // len(WORDS) + 1))[:characters]


CHECK = guardrail_pb2.CheckOutputRequest
# The largest requests, and the largest that are judged on the event loop.
LARGEST = {
    "texts": (
        "CheckInput",
        guardrail_pb2.CheckInputRequest(texts=[words(MAX_REQUEST_CHARACTERS // MAX_TEXTS)] * 200),
    ),
    "characters": (
        "CheckInput",
        guardrail_pb2.CheckInputRequest(texts=[EMOJI * MAX_REQUEST_CHARACTERS]),
    ),
    "inline": ("CheckInput", guardrail_pb2.CheckInputRequest(texts=[words(INLINE_CHARACTERS)])),
    "inline texts": (
        "CheckInput",
        guardrail_pb2.CheckInputRequest(texts=[words(INLINE_CHARACTERS // MAX_TEXTS)] * MAX_TEXTS),
    ),
    "output": (
        "CheckOutput",
        CHECK(prompt=words(MAX_REQUEST_CHARACTERS), pending=words(MAX_PENDING_CHARACTERS)),
    ),
    "inline output": ("CheckOutput", CHECK(pending=words(INLINE_PENDING_CHARACTERS), final=True)),
    "numbers": ("CheckOutput", CHECK(pending=NUMBERS * 200, final=True)),
    "inline numbers": (
        "CheckOutput",
        CHECK(pending=(NUMBERS * 30)[:INLINE_PENDING_CHARACTERS], final=True),
    ),
    "outputs": (
        "CheckOutputs",
        guardrail_pb2.CheckOutputsRequest(checks=[CHECK(prompt=words(8_000), pending="a")] * 64),
    ),
    "inline outputs": (
        "CheckOutputs",
        guardrail_pb2.CheckOutputsRequest(
            checks=[
                CHECK(
                    prompt=words((INLINE_CHARACTERS - INLINE_PENDING_CHARACTERS) // 64),
                    pending=words(INLINE_PENDING_CHARACTERS // 64),
                    released_tail=words(2_000),
                )
            ]
            * 64
        ),
    ),
}


@pytest.mark.parametrize("name", LARGEST)
async def test_largest_requests_are_judged_in_little_time(guard: Guard, name: str) -> None:
    method, request = LARGEST[name]
    async with client(guard) as stub:
        with measure_callbacks() as longest:
            await getattr(stub, method)(request, timeout=30)
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


TOO_MANY = {
    "texts": ("CheckInput", lambda: guardrail_pb2.CheckInputRequest(texts=[""] * 520_000)),
    "checks": (
        "CheckOutputs",
        lambda: guardrail_pb2.CheckOutputsRequest(checks=[CHECK()] * 520_000),
    ),
}


@pytest.mark.parametrize("field", TOO_MANY)
async def test_too_many_texts_are_refused_in_little_time(guard: Guard, field: str) -> None:
    method, build = TOO_MANY[field]
    request = build()
    async with client(guard) as stub:
        with measure_callbacks() as longest, pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(stub, method)(request, timeout=30)
    assert from_rpc(caught.value, "guardrail").field == field
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


async def test_message_beyond_the_receive_limit_is_refused(guard: Guard) -> None:
    request = guardrail_pb2.CheckInputRequest(texts=["a" * 1024] * 1024)
    async with client(guard) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CheckInput(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
