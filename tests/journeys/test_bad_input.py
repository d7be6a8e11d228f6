"""The gateway's table of invalid requests against real services, over HTTP and gRPC."""

import json
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from thumbwheel.chat.v1 import chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2_grpc
from thumbwheel.review.v1 import appeal_pb2_grpc, arena_pb2_grpc, review_pb2_grpc

from tests.journeys.client import Client
from tests.journeys.stack import Stack
from tests.services.gateway.bad_input import (
    ANSWER,
    FOREIGN_CONVERSATION,
    TABLE,
    USER_MESSAGE,
    BadInput,
    over_grpc,
    over_http,
)

STUBS = {
    "appeals": appeal_pb2_grpc.AppealServiceStub,
    "arena": arena_pb2_grpc.ArenaServiceStub,
    "chat": chat_pb2_grpc.ChatServiceStub,
    "feedback": feedback_pb2_grpc.FeedbackServiceStub,
    "reviews": review_pb2_grpc.ReviewServiceStub,
}
STATUSES = {"INVALID_ARGUMENT": 400, "UNAUTHENTICATED": 401, "NOT_FOUND": 404}


@pytest.fixture(scope="module")
def people(stack: Stack) -> tuple[Client, dict[str, str]]:
    """A user with a turn, and the ids used by the table."""
    one, other = stack.make_keys("careless", 2, scopes="all")
    client, stranger = Client(stack.http, one), Client(stack.http, other)
    started = client.ask("hello")[0]
    return client, {
        ANSWER: started["messageId"],
        USER_MESSAGE: started["started"]["userMessageId"],
        FOREIGN_CONVERSATION: stranger.ask("hello")[0]["started"]["conversationId"],
    }


def filled(case: BadInput, ids: dict[str, str]) -> dict[str, Any]:
    text = json.dumps(case.request)
    for name, value in ids.items():
        text = text.replace(name, value)
    request: dict[str, Any] = json.loads(text)
    return request


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_over_http_the_error_names_field_and_limit(
    people: tuple[Client, dict[str, str]], stack: Stack, case: BadInput
) -> None:
    client, ids = people
    key = client.key if case.key == "good" else case.key or ""
    status, body = Client(stack.http, key).call(*over_http(case, filled(case, ids)))
    assert (status, body["error"]["param"]) == (STATUSES[case.code], case.json_field)
    assert case.limit in body["error"]["message"]


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_over_grpc_the_error_names_field_and_limit(
    people: tuple[Client, dict[str, str]], stack: Stack, case: BadInput
) -> None:
    client, ids = people
    key = client.key if case.key == "good" else case.key
    metadata = [("authorization", f"Bearer {key}")] if key else []
    with grpc.insecure_channel(stack.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        service, message = over_grpc(case, filled(case, ids))
        stub = STUBS[service](channel)
        answer = getattr(stub, case.method)(message, timeout=30, metadata=metadata)
        if case.method == "SendMessage":
            list(answer)
    assert caught.value.code().name == case.code
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    assert status_pb2.Status.FromString(details).details[0].Unpack(info)
    assert info.metadata["field"] == case.field
    assert case.limit in info.metadata["limit"]
