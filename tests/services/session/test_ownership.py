"""Every method with ids of another user fails as for missing objects."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from thumbwheel.session.v1 import session_pb2

from tests.services.session.service import (
    ADA,
    BOB,
    OTHER_ADA,
    UNKNOWN_ID,
    Home,
    begin,
    error_of,
    finish,
    session_service,
    talk,
)

Call = Callable[[str, str, str], tuple[str, Any]]

# (conversation, question, answer) of the user Ada → method and request
CALLS: dict[str, Call] = {
    "go on": lambda c, q, a: ("BeginTurn", begin("hello", conversation_id=c)),
    "go on at the top": lambda c, q, a: (
        "BeginTurn",
        begin("hello", conversation_id=c, parent_message_id=c),
    ),
    "regenerate an answer": lambda c, q, a: ("BeginTurn", begin(regenerate_message_id=a)),
    "regenerate a question": lambda c, q, a: ("BeginTurn", begin(regenerate_message_id=q)),
    "finish": lambda c, q, a: ("FinishTurn", finish(a, "hi")),
    "read a question": lambda c, q, a: ("GetMessage", session_pb2.GetMessageRequest(message_id=q)),
    "read an answer": lambda c, q, a: ("GetMessage", session_pb2.GetMessageRequest(message_id=a)),
    "read": lambda c, q, a: (
        "GetConversation",
        session_pb2.GetConversationRequest(conversation_id=c),
    ),
    "clear": lambda c, q, a: (
        "ClearConversation",
        session_pb2.ClearConversationRequest(conversation_id=c),
    ),
    "delete": lambda c, q, a: (
        "DeleteConversation",
        session_pb2.DeleteConversationRequest(conversation_id=c),
    ),
}


@pytest.mark.parametrize(
    "stranger", [BOB, OTHER_ADA], ids=["another user", "the same name of another tenant"]
)
async def test_objects_of_other_users_answer_as_missing_and_do_not_change(
    home: Home, stranger: Any
) -> None:
    async with session_service(home) as stub:
        turn = await talk(stub, "hello", "hi")
        read = session_pb2.GetConversationRequest(conversation_id=turn.conversation_id)
        before = await stub.GetConversation(read, timeout=5, metadata=ADA)
        ids = (turn.conversation_id, turn.user_message_id, turn.assistant_message_id)
        for name, call in CALLS.items():
            method, request = call(*ids)
            foreign = await error_of(getattr(stub, method)(request, timeout=5, metadata=stranger))
            method, request = call(UNKNOWN_ID, UNKNOWN_ID, UNKNOWN_ID)
            missing = await error_of(getattr(stub, method)(request, timeout=5, metadata=stranger))
            assert foreign == missing, name
            assert foreign[0] is grpc.StatusCode.NOT_FOUND, name
        assert await stub.GetConversation(read, timeout=5, metadata=ADA) == before
        listed = await stub.ListConversations(
            session_pb2.ListConversationsRequest(), timeout=5, metadata=stranger
        )
        assert not listed.conversations


@pytest.mark.parametrize("field", ["parent_message_id", "regenerate_message_id"])
async def test_message_of_another_conversation_is_not_found(home: Home, field: str) -> None:
    async with session_service(home) as stub:
        mine = await talk(stub, "hello", "hi")
        other = await talk(stub, "hello", "hi")
        bobs = await stub.BeginTurn(begin("hello"), timeout=5, metadata=BOB)
        for message_id in (other.assistant_message_id, bobs.assistant_message_id, UNKNOWN_ID):
            text = "" if field == "regenerate_message_id" else "more"
            request = begin(text, conversation_id=mine.conversation_id, **{field: message_id})
            code, _, _, _ = await error_of(stub.BeginTurn(request, timeout=5, metadata=ADA))
            assert code is grpc.StatusCode.NOT_FOUND


async def test_same_request_id_of_two_users_gives_two_turns(home: Home) -> None:
    async with session_service(home) as stub:
        adas = await stub.BeginTurn(begin("hello", request_id="r"), timeout=5, metadata=ADA)
        bobs = await stub.BeginTurn(begin("hello", request_id="r"), timeout=5, metadata=BOB)
    assert adas.conversation_id != bobs.conversation_id


async def test_every_method_refuses_a_call_without_a_user(home: Home) -> None:
    async with session_service(home) as stub:
        for name, call in CALLS.items():
            method, request = call(UNKNOWN_ID, UNKNOWN_ID, UNKNOWN_ID)
            code, _, _, _ = await error_of(getattr(stub, method)(request, timeout=5))
            assert code is grpc.StatusCode.UNAUTHENTICATED, name
        code, _, _, _ = await error_of(
            stub.ListConversations(session_pb2.ListConversationsRequest(), timeout=5)
        )
        assert code is grpc.StatusCode.UNAUTHENTICATED
