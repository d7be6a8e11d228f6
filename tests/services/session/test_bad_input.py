"""Every limit of the proto: the error names the field and the allowed values."""

from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1.sample_pb2 import Sample
from thumbwheel.session.v1 import session_pb2

from tests.services.session.service import (
    ADA,
    UNKNOWN_ID,
    Home,
    begin,
    error_of,
    finish,
    session_service,
    talk,
)

User = session_pb2.UserMessage
HistoryMessage = chat_pb2.HistoryMessage
NAN = float("nan")


def message(text: str, role: int = chat_pb2.ROLE_USER) -> HistoryMessage:
    return HistoryMessage(role=chat_pb2.Role.ValueType(role), text=text)


INVALID: list[tuple[str, Any, str, str]] = [
    ("BeginTurn", begin("x", conversation_id="7"), "conversation_id", "a UUID, lower case"),
    ("BeginTurn", begin("x", parent_message_id="7"), "parent_message_id", "a UUID, lower case"),
    ("BeginTurn", begin(regenerate_message_id="7"), "regenerate_message_id", "a UUID, lower case"),
    ("BeginTurn", begin(), "action", "user or regenerate_message_id"),
    ("BeginTurn", begin(user=User(text="x")), "user.original_text", "1 to 32,768 characters"),
    ("BeginTurn", begin(user=User(original_text="x")), "user.text", "1 to 32,768 characters"),
    ("BeginTurn", begin("x" * 32_769), "user.original_text", "1 to 32,768 characters"),
    ("BeginTurn", begin("x\0"), "user.original_text", "without U+0000"),
    ("BeginTurn", begin("x", history=[message("x\0")]), "history[0].text", "without U+0000"),
    ("BeginTurn", begin("x", request_id="r\0"), "request_id", "without U+0000"),
    ("FinishTurn", finish(UNKNOWN_ID, model_version="v\0"), "model_version", "without U+0000"),
    ("BeginTurn", begin("x", request_id="r" * 65), "request_id", "at most 64 characters"),
    ("BeginTurn", begin("x", history=[message("x")] * 201), "history", "at most 200 messages"),
    (
        "BeginTurn",
        begin("x", history=[message("x" * 32_769)]),
        "history[0].text",
        "at most 32,768 characters",
    ),
    (
        "BeginTurn",
        begin("x", history=[message("x"), message("x", 0)]),
        "history[1].role",
        "one of system, user, assistant",
    ),
    (
        "BeginTurn",
        begin("x", history=[message("x", 9)]),
        "history[0].role",
        "one of system, user, assistant",
    ),
    (
        "BeginTurn",
        begin("x", history=[message("x" * 20_000, 1)] * 2),
        "history",
        "at most 32,768 characters in all system messages together",
    ),
    (
        "BeginTurn",
        begin("x", conversation_id=UNKNOWN_ID, history=[message("x")]),
        "history",
        "empty, except for a new conversation",
    ),
    (
        "BeginTurn",
        begin(regenerate_message_id=UNKNOWN_ID, history=[message("x")]),
        "history",
        "empty, except for a new conversation",
    ),
    (
        "BeginTurn",
        begin(regenerate_message_id=UNKNOWN_ID, parent_message_id=UNKNOWN_ID),
        "parent_message_id",
        "empty with regenerate_message_id",
    ),
    (
        "BeginTurn",
        begin("x", task=9),
        "task",
        "one of unspecified, code, question_answering, chat, creative",
    ),
    ("BeginTurn", begin("x", reply_tokens=62), "reply_tokens", "fewer than 62 tokens"),
    ("FinishTurn", finish("7"), "assistant_message_id", "a UUID, lower case"),
    ("FinishTurn", finish(UNKNOWN_ID, finish_reason=0), "finish_reason", "set"),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, finish_reason=99),
        "finish_reason",
        "one of unspecified, stop, length, cancelled, input_blocked, output_blocked, failed",
    ),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, arm="control"),
        "arm",
        '"stable" or "candidate" or "pinned" or "battle"',
    ),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, assignment_probability=1.5),
        "assignment_probability",
        "0 to 1",
    ),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, assignment_probability=NAN),
        "assignment_probability",
        "0 to 1",
    ),
    ("FinishTurn", finish(UNKNOWN_ID, temperature=9.0), "temperature", "0 to 2"),
    ("FinishTurn", finish(UNKNOWN_ID, top_p=-0.1), "top_p", "0 to 1"),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, model_version="v" * 129),
        "model_version",
        "at most 128 characters",
    ),
    ("FinishTurn", finish(UNKNOWN_ID, sample=Sample()), "sample.token_ids", "1 to 4,096 tokens"),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, sample=Sample(token_ids=[7] * 4097, log_probs=[-1] * 4097)),
        "sample.token_ids",
        "1 to 4,096 tokens",
    ),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, sample=Sample(token_ids=[7, 8], log_probs=[-1])),
        "sample.log_probs",
        "as many as token_ids",
    ),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, sample=Sample(token_ids=[7, 8], log_probs=[-1, NAN])),
        "sample.log_probs",
        "finite and at most 0",
    ),
    (
        "FinishTurn",
        finish(UNKNOWN_ID, sample=Sample(token_ids=[7], log_probs=[0.5])),
        "sample.log_probs",
        "finite and at most 0",
    ),
    (
        "GetMessage",
        session_pb2.GetMessageRequest(message_id="x"),
        "message_id",
        "a UUID, lower case",
    ),
    (
        "GetConversation",
        session_pb2.GetConversationRequest(),
        "conversation_id",
        "a UUID, lower case",
    ),
    (
        "GetConversation",
        session_pb2.GetConversationRequest(conversation_id=UNKNOWN_ID, page_size=101),
        "page_size",
        "1 to 100, or 0 for 50",
    ),
    (
        "GetConversation",
        session_pb2.GetConversationRequest(conversation_id=UNKNOWN_ID, page_token="next"),
        "page_token",
        "the token of the previous page",
    ),
    (
        "ClearConversation",
        session_pb2.ClearConversationRequest(),
        "conversation_id",
        "a UUID, lower case",
    ),
    (
        "DeleteConversation",
        session_pb2.DeleteConversationRequest(),
        "conversation_id",
        "a UUID, lower case",
    ),
    (
        "ListConversations",
        session_pb2.ListConversationsRequest(page_size=101),
        "page_size",
        "1 to 100, or 0 for 50",
    ),
    (
        "ListConversations",
        session_pb2.ListConversationsRequest(page_token="never"),
        "page_token",
        "the token of the previous page",
    ),
    (
        "ListConversations",
        session_pb2.ListConversationsRequest(page_token="é"),
        "page_token",
        "the token of the previous page",
    ),
]


async def test_invalid_input_names_field_and_limit(home: Home) -> None:
    async with session_service(home) as stub:
        for method, request, field, limit in INVALID:
            found = await error_of(getattr(stub, method)(request, timeout=5, metadata=ADA))
            assert found == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", field, limit), (
                method,
                field,
            )
        listed = await stub.ListConversations(
            session_pb2.ListConversationsRequest(), timeout=5, metadata=ADA
        )
    assert not listed.conversations


async def test_message_of_the_wrong_role_is_refused(home: Home) -> None:
    async with session_service(home) as stub:
        turn = await talk(
            stub, "hello", "hi", history=[message("be brief", 1), message("welcome", 3)]
        )
        read = session_pb2.GetConversationRequest(conversation_id=turn.conversation_id)
        system, greeting, question, _ = (
            await stub.GetConversation(read, timeout=5, metadata=ADA)
        ).messages
        under = begin("x", conversation_id=turn.conversation_id, parent_message_id=question.id)
        cases = [
            ("BeginTurn", under, "parent_message_id"),
            ("BeginTurn", begin(regenerate_message_id=system.id), "regenerate_message_id"),
            ("BeginTurn", begin(regenerate_message_id=greeting.id), "regenerate_message_id"),
            ("FinishTurn", finish(question.id), "assistant_message_id"),
        ]
        for method, request, field in cases:
            code, _, found, limit = await error_of(
                getattr(stub, method)(request, timeout=5, metadata=ADA)
            )
            assert (code, found) == (grpc.StatusCode.INVALID_ARGUMENT, field)
            assert limit


@pytest.mark.parametrize("length", [1, 32_768])
async def test_input_at_the_limits_is_accepted(home: Home, length: int) -> None:
    async with session_service(home) as stub:
        request = begin("x" * length, request_id="r" * 64, history=[message("y")] * 200)
        turn = await stub.BeginTurn(request, timeout=5, metadata=ADA)
    assert turn.context[-1].text.endswith("x" * length)
