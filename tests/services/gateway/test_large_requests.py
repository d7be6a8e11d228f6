"""Large requests: the CPU time of the event loop is bounded, within and beyond the limits.

Findings S-04 and S-07. The limit of a callback is 50 ms of CPU time; the tests allow three times as
much.
"""

import json
from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2
from thumbwheel.review.v1 import appeal_pb2, arena_pb2, review_pb2

from services.contracts.limits import MAX_REQUEST_CHARACTERS
from services.gateway.access import ROUTES, RPCS
from services.gateway.request_counts import MAX_ITEMS
from tests.services.gateway.bad_input import error_info
from tests.services.gateway.gateway_under_test import GatewayUnderTest
from tests.support.loop_time import MAX_CALLBACK_SECONDS, measure_callbacks

pytestmark = pytest.mark.asyncio(loop_scope="module")
API_BYTES, COMPLETION_BYTES = 256 * 1024, 640 * 1024
CHAT, FEEDBACK = "POST /api/messages", "POST /api/feedback"
BATTLE, VOTE = "POST /api/arena/battles", "POST /api/arena/battles/{battle_id}/vote"
REVIEW = "POST /api/reviews/{item_id}"
COMPLETIONS = "POST /v1/chat/completions"


def filled(head: str, item: str, tail: str, size: int, last: str = "") -> bytes:
    """Return JSON of at most `size` bytes with as many items as fit."""
    count = (size - len(head) - len(tail) - len(last)) // (len(item) + 1) - 1
    return (head + ",".join([item] * count + ([last] if last else [])) + tail).encode()


SCORES = '{"review":{"scores":['
HISTORY = '{"input":{"text":"a","history":['
REASONS = '{"thumb":{"reasons":['
MESSAGES = '{"model":"thumbwheel","messages":['
# Route, body, status, field. Each body is as large as the route reads.
BODIES: Mapping[str, tuple[str, bytes, int, str | None]] = {
    "empty history": (CHAT, filled(HISTORY, "{}", "]}}", API_BYTES), 400, "input.history"),
    "wrong last item": (
        CHAT,
        filled(HISTORY, "{}", "]}}", API_BYTES, '{"role":7.5}'),
        400,
        "input.history",
    ),
    "stops": (
        CHAT,
        filled('{"sampling":{"stop":[', '""', "]}}", API_BYTES),
        400,
        "sampling.stop",
    ),
    "list of inputs": (CHAT, filled('{"input":[', "{}", "]}", API_BYTES), 400, "input"),
    "one item of lists": (
        CHAT,
        filled(HISTORY + '{"text":[', "{}", "]}]}}", API_BYTES),
        400,
        "input.history[0].text",
    ),
    "reasons": (FEEDBACK, filled(REASONS, '""', "]}}", API_BYTES), 400, "thumb.reasons"),
    "battle": (BATTLE, filled('{"requestId":[', "{}", "]}", API_BYTES), 400, "requestId"),
    "vote": (VOTE, filled('{"messageIds":[', '""', "]}", API_BYTES), 400, "messageIds"),
    "appeal": (
        "POST /api/appeals",
        filled('{"messageId":[', '""', "]}", API_BYTES),
        400,
        "messageId",
    ),
    "scores": (REVIEW, filled(SCORES, "{}", "]}}", API_BYTES), 400, "review.scores"),
    "ranks": (
        f"{REVIEW}/resolution",
        filled('{"review":{"ranks":[', '{"rank":1}', "]}}", API_BYTES),
        400,
        "review.ranks",
    ),
    "numbers": (CHAT, filled('{"input":[', "1e1", "]}", API_BYTES), 400, "input"),
    "too long": (CHAT, b" " * (API_BYTES + 1), 413, "body"),
    "consent": (
        "PUT /api/consent",
        filled('{"training":[', "{}", "]}", API_BYTES),
        400,
        "training",
    ),
    "messages": (COMPLETIONS, filled(MESSAGES, "{}", "]}", COMPLETION_BYTES), 400, "messages"),
    "parts": (
        COMPLETIONS,
        filled(
            MESSAGES + '{"role":"user","content":[',
            '{"type":"text","text":""}',
            "]}]}",
            COMPLETION_BYTES,
        ),
        400,
        "messages[0].content",
    ),
    "metadata": (
        COMPLETIONS,
        filled(MESSAGES + '],"metadata":[', '{"a":[]}', "]}", COMPLETION_BYTES),
        400,
        "messages",
    ),
    "long completion": (COMPLETIONS, b" " * (COMPLETION_BYTES + 1), 413, "body"),
}


@pytest.mark.parametrize("name", BODIES)
async def test_large_body_is_refused_within_the_time_of_a_callback(
    shared_gateway: GatewayUnderTest, name: str
) -> None:
    """Finding S-04: 180 KB of JSON blocked the event loop for two seconds."""
    route, body, status, field = BODIES[name]
    method, _, path = route.partition(" ")
    with measure_callbacks() as longest:
        async with shared_gateway.http.request(
            method, shared_gateway.url + path, data=body, headers=shared_gateway.headers()
        ) as response:
            error = (await response.json())["error"]
    assert (response.status, error["param"]) == (status, field)
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


# Bytes of one field number 99, which no message has, with the value 1.
UNKNOWN = b"\x98\x06\x01"
MESSAGES_OVER_GRPC: Mapping[str, tuple[bytes, str]] = {
    "empty history": (b"\x12\x00" * 320_000, "input.history"),
    "unknown fields": (UNKNOWN * 210_000, "input.99"),
    "unknown fields within": (
        (b"\x12\xa4\x18" + UNKNOWN * 1_036) * 200,
        "input.history.99",
    ),
}


@pytest.mark.parametrize("name", MESSAGES_OVER_GRPC)
async def test_large_message_is_refused_within_the_time_of_a_callback(
    shared_gateway: GatewayUnderTest, name: str
) -> None:
    """Finding S-04: 4 MiB over gRPC blocked the event loop for three to five seconds."""
    content, field = MESSAGES_OVER_GRPC[name]
    data = b"\x1a" + varint(len(content)) + content
    with measure_callbacks() as longest, pytest.raises(grpc.aio.AioRpcError) as caught:
        await over_grpc(shared_gateway, data)
    assert error_info(caught.value)[1].metadata["field"] == field
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


async def test_message_beyond_the_receive_limit_is_refused(
    shared_gateway: GatewayUnderTest,
) -> None:
    """Finding S-04: the public port received 4 MiB, eight times the documented limits."""
    with measure_callbacks() as longest, pytest.raises(grpc.aio.AioRpcError) as caught:
        await over_grpc(shared_gateway, bytes(COMPLETION_BYTES + 1))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


@pytest.mark.parametrize("role", ["ROLE_USER", "ROLE_ASSISTANT"])
@pytest.mark.parametrize("letter", ["a", "\U0001f600"])
async def test_largest_valid_history_is_answered_and_one_more_character_refused(
    shared_gateway: GatewayUnderTest, role: str, letter: str
) -> None:
    """Finding S-07: 200 texts of 32,768 characters took the guardrail 14 s."""
    text = letter * (MAX_REQUEST_CHARACTERS // 201)
    rest = letter * (MAX_REQUEST_CHARACTERS - 200 * len(text))
    request = chat_pb2.SendMessageRequest(
        input=chat_pb2.UserInput(
            text=rest,
            history=[chat_pb2.HistoryMessage(role=chat_pb2.Role.Value(role), text=text)] * 200,
        ),
        skip_enhancer=True,
    )
    with measure_callbacks() as longest:
        events = [
            event
            async for event in shared_gateway.chat.SendMessage(request, **mine(shared_gateway))
        ]
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_STOP
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS
    request.input.text += letter
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await over_grpc(shared_gateway, request.SerializeToString())
    metadata = error_info(caught.value)[1].metadata
    assert metadata["field"] == "input.history"
    assert f"{MAX_REQUEST_CHARACTERS:,}" in metadata["limit"]


async def test_sum_of_texts_has_openai_names(shared_gateway: GatewayUnderTest) -> None:
    """Finding S-07: the sum of the texts is limited in all public APIs."""
    messages = [{"role": "user", "content": "x" * 32_768}] * 5
    async with shared_gateway.http.post(
        shared_gateway.url + "/v1/chat/completions",
        data=json.dumps({"model": "thumbwheel", "messages": messages}).encode(),
        headers=shared_gateway.headers(),
    ) as response:
        error = (await response.json())["error"]
    assert (response.status, error["param"]) == (400, "messages")


async def test_every_repeated_field_of_a_public_request_has_a_limit() -> None:
    """Finding S-04: counts are checked for each repeated field, also for later ones."""
    modules = (chat_pb2, feedback_pb2, appeal_pb2, arena_pb2, review_pb2)
    services = {
        service.full_name: service
        for module in modules
        for service in module.DESCRIPTOR.services_by_name.values()
    }
    found: set[str] = set()
    for rpc in RPCS:
        service, _, method = rpc.rpartition(".")
        found |= repeated_fields(services[service].methods_by_name[method].input_type)
    assert found == set(MAX_ITEMS)


async def test_every_route_with_a_body_is_measured() -> None:
    """Finding S-04: a new route that reads a body must be added to the cases."""
    without_body = {
        "POST /api/messages/{message_id}/cancel",
        "POST /api/conversations/{conversation_id}/clear",
        "POST /api/erasure",
        "POST /api/session",
        "POST /api/reviews/{item_id}/skip",
    }
    reads = {name for name in ROUTES if name.startswith(("POST", "PUT"))} - without_body
    assert {route for route, *_ in BODIES.values()} == reads


def repeated_fields(message: Descriptor) -> set[str]:
    """Return the full names of the repeated fields of a message and of its parts."""
    found = {field.full_name for field in message.fields if field.is_repeated}
    for field in message.fields:
        if field.message_type is not None:
            found |= repeated_fields(field.message_type)
    return found


def mine(gateway: GatewayUnderTest) -> dict[str, Any]:
    return {"timeout": 10, "metadata": gateway.metadata()}


async def over_grpc(gateway: GatewayUnderTest, data: bytes) -> None:
    """Send the bytes of a SendMessage request."""
    channel: Any = gateway.channel
    call = channel.unary_stream("/thumbwheel.chat.v1.ChatService/SendMessage")
    async for _ in call(data, **mine(gateway)):
        pass


def varint(number: int) -> bytes:
    """Return a number in the encoding of protobuf."""
    head = []
    while number > 127:
        head.append(number & 127 | 128)
        number >>= 7
    return bytes([*head, number])
