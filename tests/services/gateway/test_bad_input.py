"""Invalid requests: the same clear error over gRPC and HTTP, with field and limit."""

import io
import json
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.errors import ServiceError
from services.gateway.http import errors
from services.gateway.http.errors import error_body
from tests.services.gateway.bad_input import (
    ANSWER,
    BAD_COMPLETIONS,
    BAD_JSON,
    FOREIGN_CONVERSATION,
    TABLE,
    USER_MESSAGE,
    BadCompletion,
    BadInput,
    BadJson,
    error_info,
    over_grpc,
    over_http,
)
from tests.services.gateway.gateway_under_test import GatewayUnderTest

# One gateway for the whole table. The test checks for lasting effects of rejected requests.
pytestmark = pytest.mark.asyncio(loop_scope="module")
STATUSES = {"INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "NOT_FOUND": 404}
CHAT = "/thumbwheel.chat.v1.ChatService"


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[ServiceError]:
    """Return the errors sent over HTTP, since OpenAI's format has no field for the limit."""
    sent: list[ServiceError] = []

    def recorded(error: ServiceError) -> dict[str, Any]:
        sent.append(error)
        return error_body(error)

    monkeypatch.setattr(errors, "error_body", recorded)
    return sent


def by_name(case: Any) -> str:
    return str(case.name)


async def filled(gateway: GatewayUnderTest, case: BadInput) -> dict[str, Any]:
    """Return the request with ids of existing objects."""
    text = json.dumps(case.request)
    if ANSWER in text or USER_MESSAGE in text:
        turn = await gateway.ask()
        text = text.replace(ANSWER, turn[0].message_id).replace(
            USER_MESSAGE, turn[0].started.user_message_id
        )
    if FOREIGN_CONVERSATION in text:
        turn = await gateway.ask(key=gateway.other_key)
        text = text.replace(FOREIGN_CONVERSATION, turn[0].started.conversation_id)
    request: dict[str, Any] = json.loads(text)
    return request


@pytest.mark.parametrize("case", TABLE, ids=by_name)
async def test_grpc_and_http_errors_name_field_and_limit(
    shared_gateway: GatewayUnderTest, refusals: list[ServiceError], case: BadInput
) -> None:
    request = await filled(shared_gateway, case)
    stored = len(shared_gateway.fakes.session.messages)
    key = shared_gateway.key if case.key == "good" else case.key

    code, info = await _over_grpc(shared_gateway, case, request, key)
    assert (code, info.metadata["field"]) == (case.code, case.field)
    assert case.limit in info.metadata["limit"]

    status, body = await _over_http(shared_gateway, case, request, key)
    assert (status, body["param"], body["code"]) == (
        STATUSES[case.code],
        case.json_field,
        info.reason.lower(),
    )
    assert refusals[-1].limit == info.metadata["limit"]
    assert refusals[-1].limit in body["message"]
    assert set(body) == {"message", "type", "param", "code"}
    assert len(shared_gateway.fakes.session.messages) == stored


async def _over_grpc(
    gateway: GatewayUnderTest, case: BadInput, request: Any, key: str | None
) -> tuple[str, error_details_pb2.ErrorInfo]:
    metadata = gateway.metadata(key) if key else ()
    service, message = over_grpc(case, request)
    call = getattr(getattr(gateway, service), case.method)(message, timeout=10, metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if case.method == "SendMessage":
            async for _ in call:
                pass
        else:
            await call
    return caught.value.code().name, error_info(caught.value)[1]


async def _over_http(
    gateway: GatewayUnderTest, case: BadInput, request: Any, key: str | None
) -> tuple[int, dict[str, Any]]:
    headers = gateway.headers(key) if key else {}
    method, path, body = over_http(case, request)
    async with gateway.http.request(
        method, gateway.url + path, json=body, headers=headers
    ) as response:
        return response.status, (await response.json())["error"]


@pytest.mark.parametrize("case", BAD_JSON, ids=by_name)
async def test_invalid_body_is_rejected_with_the_field(
    shared_gateway: GatewayUnderTest, refusals: list[ServiceError], case: BadJson
) -> None:
    async with shared_gateway.http.request(
        case.method,
        shared_gateway.url + case.path,
        data=io.BytesIO(case.body),
        headers=shared_gateway.headers(),
    ) as response:
        body = (await response.json())["error"]
    assert (response.status, body["param"]) == (case.status, case.field)
    assert case.limit in refusals[-1].limit
    assert refusals[-1].limit in body["message"]


@pytest.mark.parametrize("case", BAD_COMPLETIONS, ids=by_name)
async def test_invalid_completion_is_rejected_with_openai_names(
    shared_gateway: GatewayUnderTest, refusals: list[ServiceError], case: BadCompletion
) -> None:
    stored = len(shared_gateway.fakes.session.messages)
    url = shared_gateway.url + "/v1/chat/completions"
    async with shared_gateway.http.post(
        url, json=case.body, headers=shared_gateway.headers()
    ) as response:
        body = (await response.json())["error"]
    assert (response.status, body["param"], body["code"]) == (case.status, case.field, case.code)
    assert case.limit in refusals[-1].limit
    assert refusals[-1].limit in body["message"]
    assert len(shared_gateway.fakes.session.messages) == stored


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"\x1a\x04\x0a\x02\xff\xfe", "request"),
        (b"\xff", "request"),
        (b"\x1a\x03\x0a\x01a\x98\x06\x01", "99"),
    ],
    ids=["invalid UTF-8", "no protobuf", "unknown field"],
)
async def test_invalid_bytes_are_rejected_with_the_field(
    shared_gateway: GatewayUnderTest, data: bytes, field: str
) -> None:
    channel: Any = shared_gateway.channel
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in channel.unary_stream(f"{CHAT}/SendMessage")(
            data, timeout=5, metadata=shared_gateway.metadata()
        ):
            pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(caught.value)[1].metadata["field"] == field


async def test_foreign_objects_look_like_missing_ones(
    shared_gateway: GatewayUnderTest,
) -> None:
    turn = await shared_gateway.ask(key=shared_gateway.other_key)
    conversation_id, message_id = turn[0].started.conversation_id, turn[0].message_id
    attempts = [
        shared_gateway.chat.GetConversation(
            chat_pb2.GetConversationRequest(conversation_id=conversation_id),
            **_mine(shared_gateway),
        ),
        shared_gateway.chat.ClearConversation(
            chat_pb2.ClearConversationRequest(conversation_id=conversation_id),
            **_mine(shared_gateway),
        ),
        shared_gateway.chat.DeleteConversation(
            chat_pb2.DeleteConversationRequest(conversation_id=conversation_id),
            **_mine(shared_gateway),
        ),
        shared_gateway.chat.CancelMessage(
            chat_pb2.CancelMessageRequest(message_id=message_id), **_mine(shared_gateway)
        ),
        shared_gateway.feedback.SubmitFeedback(
            feedback_pb2.SubmitFeedbackRequest(
                message_id=message_id, request_id="r", thumb=events_pb2.Thumb(up=True)
            ),
            **_mine(shared_gateway),
        ),
    ]
    for attempt in attempts:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    found = await shared_gateway.chat.ListConversations(
        chat_pb2.ListConversationsRequest(), **_mine(shared_gateway)
    )
    assert conversation_id not in [conversation.id for conversation in found.conversations]


async def test_last_of_two_thumbs_is_current(shared_gateway: GatewayUnderTest) -> None:
    turn = await shared_gateway.ask()
    for request_id, up in (("first", True), ("second", False)):
        said = {"messageId": turn[0].message_id, "requestId": request_id, "thumb": {"up": up}}
        async with shared_gateway.http.post(
            shared_gateway.url + "/api/feedback", json=said, headers=shared_gateway.headers()
        ) as response:
            assert (await response.json())["durability"] == "DURABILITY_SPOOL"
    path = f"/api/conversations/{turn[0].started.conversation_id}"
    async with shared_gateway.http.get(
        shared_gateway.url + path, headers=shared_gateway.headers()
    ) as response:
        thumbs = [
            message["thumbUp"]
            for message in (await response.json())["messages"]
            if "thumbUp" in message
        ]
    assert thumbs == [False]


def _mine(gateway: GatewayUnderTest) -> dict[str, Any]:
    return {"timeout": 10, "metadata": gateway.metadata()}
