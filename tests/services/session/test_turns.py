"""Turns over a real socket: idempotency, history, titles, budget, late answers, restarts."""

import asyncio
import struct
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import from_rpc
from tests.services.session.service import (
    ADA,
    SAMPLE,
    Home,
    begin,
    error_of,
    finish,
    session_service,
    talk,
)


def history(*entries: tuple[int, str]) -> list[chat_pb2.HistoryMessage]:
    return [
        chat_pb2.HistoryMessage(role=chat_pb2.Role.ValueType(role), text=text)
        for role, text in entries
    ]


def texts(turn: Any) -> list[str]:
    return [message.text for message in turn.context]


async def conversation(stub: Any, conversation_id: str) -> Any:
    request = session_pb2.GetConversationRequest(conversation_id=conversation_id)
    return await stub.GetConversation(request, timeout=5, metadata=ADA)


async def question_enhanced(stub: Any, turn: Any) -> list[bool | None]:
    """Return the field in the responses for the question and the answer of a turn."""
    found = []
    for message_id in (turn.user_message_id, turn.assistant_message_id):
        request = session_pb2.GetMessageRequest(message_id=message_id)
        response = await stub.GetMessage(request, timeout=5, metadata=ADA)
        is_told = response.HasField("question_enhanced")
        found.append(response.question_enhanced if is_told else None)
    return found


async def test_turn_stores_both_texts_and_sends_the_enhanced_text_to_the_model(home: Home) -> None:
    edit = chat_pb2.TextEdit(start=0, end=2, replacement="How", kind="abbreviation")
    user = session_pb2.UserMessage(original_text="hw are you", text="How are you", edits=[edit])
    async with session_service(home) as stub:
        request = session_pb2.BeginTurnRequest(user=user, task=chat_pb2.TASK_CHAT)
        turn = await stub.BeginTurn(request, timeout=5, metadata=ADA)
        await stub.FinishTurn(finish(turn.assistant_message_id, "Fine."), timeout=5, metadata=ADA)
        stored = await conversation(stub, turn.conversation_id)
        enhanced = await question_enhanced(stub, turn)
        other = await stub.BeginTurn(begin("hi"), timeout=5, metadata=ADA)
        typed = await question_enhanced(stub, other)
    assert (enhanced, typed) == ([None, True], [None, False])
    assert texts(turn) == ["How are you"]
    assert turn.context_tokens == 3 + 2
    question, answer = stored.messages
    assert (question.id, answer.id) == (turn.user_message_id, turn.assistant_message_id)
    assert (question.original_text, question.text, list(question.edits)) == (
        "hw are you",
        "How are you",
        [edit],
    )
    assert (answer.parent_id, answer.text, answer.model_version, answer.arm) == (
        question.id,
        "Fine.",
        "v1",
        "stable",
    )
    assert (answer.finish_reason, answer.task) == (chat_pb2.FINISH_REASON_STOP, chat_pb2.TASK_CHAT)


@pytest.mark.parametrize(
    ("named", "chosen", "stored"),
    [
        (chat_pb2.TASK_UNSPECIFIED, chat_pb2.TASK_CODE, chat_pb2.TASK_CODE),
        (chat_pb2.TASK_CHAT, chat_pb2.TASK_CODE, chat_pb2.TASK_CHAT),
        (chat_pb2.TASK_UNSPECIFIED, chat_pb2.TASK_UNSPECIFIED, chat_pb2.TASK_UNSPECIFIED),
        pytest.param(chat_pb2.TASK_UNSPECIFIED, 99, chat_pb2.TASK_UNSPECIFIED, id="later release"),
    ],
)
async def test_chosen_task_is_stored_for_a_turn_that_names_none(
    home: Home, named: Any, chosen: Any, stored: Any
) -> None:
    async with session_service(home) as stub:
        turn = await stub.BeginTurn(begin("hello", task=named), timeout=5, metadata=ADA)
        answer = finish(turn.assistant_message_id, "Hi.", task=chosen)
        await stub.FinishTurn(answer, timeout=5, metadata=ADA)
        question, found = (await conversation(stub, turn.conversation_id)).messages
    assert (question.task, found.task, found.text) == (named, stored, "Hi.")


async def test_request_id_is_replayed_even_if_the_enhanced_text_differs(
    home: Home,
) -> None:
    async with session_service(home) as stub:
        first = await stub.BeginTurn(begin("hello there", request_id="r"), timeout=5, metadata=ADA)
        again = session_pb2.BeginTurnRequest(
            user=session_pb2.UserMessage(original_text="hello there", text="Hello there."),
            request_id="r",
        )
        second = await stub.BeginTurn(again, timeout=5, metadata=ADA)
        stored = await conversation(stub, first.conversation_id)
    assert second.replayed
    second.replayed = False
    assert second == first
    assert len(stored.messages) == 2


async def test_replay_returns_the_original_context(home: Home) -> None:
    async with session_service(home) as stub:
        opening = await talk(stub, "one", "two")
        request = begin("three", conversation_id=opening.conversation_id, request_id="r")
        first = await stub.BeginTurn(request, timeout=5, metadata=ADA)
        await stub.FinishTurn(finish(first.assistant_message_id, "four"), timeout=5, metadata=ADA)
        await talk(stub, "five", "six", opening.conversation_id)
        second = await stub.BeginTurn(request, timeout=5, metadata=ADA)
    assert texts(second) == texts(first) == ["one", "two", "three"]


@pytest.mark.parametrize(
    "other",
    [begin("goodbye", request_id="r"), begin("hello", request_id="r", task=chat_pb2.TASK_CODE)],
)
async def test_request_id_with_another_payload_is_refused(home: Home, other: Any) -> None:
    async with session_service(home) as stub:
        await stub.BeginTurn(begin("hello", request_id="r"), timeout=5, metadata=ADA)
        code, reason, field, _ = await error_of(stub.BeginTurn(other, timeout=5, metadata=ADA))
    assert (code, reason, field) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "IDEMPOTENCY_MISMATCH",
        "request_id",
    )


async def test_concurrent_identical_requests_are_stored_once(home: Home) -> None:
    async with session_service(home) as stub:
        calls = [
            stub.BeginTurn(begin("hello", request_id="r"), timeout=5, metadata=ADA)
            for _ in range(20)
        ]
        turns = await asyncio.gather(*calls)
        listed = await stub.ListConversations(
            session_pb2.ListConversationsRequest(), timeout=5, metadata=ADA
        )
    assert len({turn.assistant_message_id for turn in turns}) == 1
    assert sum(not turn.replayed for turn in turns) == 1
    assert len(listed.conversations) == 1


async def test_concurrent_turns_of_one_conversation_all_join_its_tree(home: Home) -> None:
    async with session_service(home) as stub:
        first = await talk(stub, "hello", "hi")
        request = begin("more", conversation_id=first.conversation_id)
        await asyncio.gather(*(stub.BeginTurn(request, timeout=5, metadata=ADA) for _ in range(10)))
        stored = await conversation(stub, first.conversation_id)
    ids = [message.id for message in stored.messages]
    assert len(set(ids)) == 22
    assert all(
        message.parent_id in ids[:number]
        for number, message in enumerate(stored.messages)
        if number
    )


async def test_history_is_imported_and_its_system_message_is_always_in_context(
    home: Home,
) -> None:
    earlier = history(
        (chat_pb2.ROLE_SYSTEM, "be brief"),
        (chat_pb2.ROLE_USER, "old " * 20),
        (chat_pb2.ROLE_ASSISTANT, "old " * 20),
    )
    async with session_service(home) as stub:
        turn = await stub.BeginTurn(begin("new", history=earlier), timeout=5, metadata=ADA)
        stored = await conversation(stub, turn.conversation_id)
    assert texts(turn) == ["be brief", "new"]
    assert turn.dropped_messages == 2
    assert [message.role for message in stored.messages] == [1, 2, 3, 2, 3]
    assert [message.parent_id for message in stored.messages[1:]] == [
        message.id for message in stored.messages[:-1]
    ]


@pytest.mark.parametrize(
    ("earlier", "text", "named"),
    [
        ((), "w " * 47, ("user.text", "46 tokens", "47 tokens")),
        (
            ((chat_pb2.ROLE_SYSTEM, "w " * 50),),
            "hello",
            ("history[0].text", "43 tokens", "50 tokens"),
        ),
        (
            ((chat_pb2.ROLE_USER, ""), (chat_pb2.ROLE_SYSTEM, "w " * 50)),
            "hello",
            ("history[1].text", "43 tokens", "50 tokens"),
        ),
    ],
)
async def test_text_over_the_budget_is_refused_by_its_field_and_not_stored(
    home: Home, earlier: Any, text: str, named: tuple[str, str, str]
) -> None:
    async with session_service(home) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.BeginTurn(begin(text, history=history(*earlier)), timeout=5, metadata=ADA)
        await stub.BeginTurn(begin("w " * 46), timeout=5, metadata=ADA)
        listed = await stub.ListConversations(
            session_pb2.ListConversationsRequest(), timeout=5, metadata=ADA
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = from_rpc(caught.value, "session")
    assert (error.field, error.limit, error.actual) == named
    assert error.reason == "CONTEXT_LENGTH_EXCEEDED"
    assert len(listed.conversations) == 1


async def test_regenerated_message_without_room_for_a_longer_answer_is_named(home: Home) -> None:
    async with session_service(home) as stub:
        turn = await talk(stub, "w " * 40, "hi")
        again = begin(regenerate_message_id=turn.assistant_message_id, reply_tokens=30)
        _, reason, field, limit = await error_of(stub.BeginTurn(again, timeout=5, metadata=ADA))
    assert (reason, limit) == ("CONTEXT_LENGTH_EXCEEDED", "30 tokens")
    assert field == "regenerate_message_id"


async def test_title_is_the_first_words_cut_between_words(home: Home) -> None:
    async with session_service(home, context_tokens=1000) as stub:
        first = await stub.BeginTurn(begin("a  word\n" * 30), timeout=5, metadata=ADA)
        second = await stub.BeginTurn(begin("x" * 100), timeout=5, metadata=ADA)
        titles = [
            (await conversation(stub, turn.conversation_id)).conversation.title
            for turn in (first, second)
        ]
    assert titles == ["a word " * 11 + "a", "x" * 80]


async def test_title_follows_an_edited_first_message_and_the_continued_branch(
    home: Home,
) -> None:
    titles: list[str] = []
    async with session_service(home) as stub:
        first = await talk(stub, "tpyo", "well")
        within = first.conversation_id

        async def title() -> None:
            titles.append((await conversation(stub, within)).conversation.title)

        await title()
        await talk(stub, "typo", "well", within, parent_message_id=within)
        await title()
        second = await talk(stub, "more of it", "well", within)
        await title()
        await talk(stub, "less of it", "well", within, parent_message_id=first.assistant_message_id)
        await title()
        again = begin(conversation_id=within, regenerate_message_id=second.user_message_id)
        await stub.BeginTurn(again, timeout=5, metadata=ADA)
        await title()
    assert titles == ["tpyo", "typo", "typo", "tpyo", "typo"]


async def test_u0000_in_an_answer_is_replaced(home: Home) -> None:
    async with session_service(home) as stub:
        turn = await talk(stub, "hello", "h\0i")
        await stub.FinishTurn(finish(turn.assistant_message_id, "h\0i"), timeout=5, metadata=ADA)
        stored = await conversation(stub, turn.conversation_id)
    assert stored.messages[-1].text == "h\ufffdi"


async def test_verdict_of_a_blocked_answer_is_stored_for_appeals(home: Home) -> None:
    verdict = {"guard_category": "violence", "guard_score": 0.75, "policy_version": "p1"}
    blocks = []
    async with session_service(home) as stub:
        for finish_reason in (
            chat_pb2.FINISH_REASON_INPUT_BLOCKED,
            chat_pb2.FINISH_REASON_OUTPUT_BLOCKED,
            chat_pb2.FINISH_REASON_STOP,
        ):
            turn = await stub.BeginTurn(begin("hello"), timeout=5, metadata=ADA)
            last = finish(turn.assistant_message_id, "no", finish_reason=finish_reason, **verdict)
            await stub.FinishTurn(last, timeout=5, metadata=ADA)
            request = session_pb2.GetMessageRequest(message_id=turn.assistant_message_id)
            found = await stub.GetMessage(request, timeout=5, metadata=ADA)
            blocks.append(
                (found.block.category, found.block.score, found.block.policy_version)
                if found.HasField("block")
                else None
            )
    assert blocks == [("violence", 0.75, "p1")] * 2 + [None]


async def test_answer_finishes_only_once(home: Home) -> None:
    async with session_service(home) as stub:
        turn = await talk(stub, "hello", "hi")
        await stub.FinishTurn(finish(turn.assistant_message_id, "hi"), timeout=5, metadata=ADA)
        other = stub.FinishTurn(finish(turn.assistant_message_id, "ho"), timeout=5, metadata=ADA)
        code, reason, _, _ = await error_of(other)
        stored = await conversation(stub, turn.conversation_id)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_FINISHED")
    assert stored.messages[-1].text == "hi"


async def test_unfinished_answer_reads_as_failed_and_can_still_be_finished(
    home: Home,
) -> None:
    async with session_service(home, max_turn_seconds=0.05) as stub:
        turn = await stub.BeginTurn(begin("hello"), timeout=5, metadata=ADA)
        request = session_pb2.GetMessageRequest(message_id=turn.assistant_message_id)
        await asyncio.sleep(0.1)
        late = await stub.GetMessage(request, timeout=5, metadata=ADA)
        await stub.FinishTurn(finish(turn.assistant_message_id, "hi"), timeout=5, metadata=ADA)
        finished = await stub.GetMessage(request, timeout=5, metadata=ADA)
    assert late.message.finish_reason == chat_pb2.FINISH_REASON_FAILED
    assert (finished.message.finish_reason, finished.message.text) == (
        chat_pb2.FINISH_REASON_STOP,
        "hi",
    )


async def test_open_answer_is_open_within_the_longest_turn(home: Home) -> None:
    async with session_service(home) as stub:
        turn = await stub.BeginTurn(begin("hello"), timeout=5, metadata=ADA)
        stored = await conversation(stub, turn.conversation_id)
    assert stored.messages[-1].finish_reason == chat_pb2.FINISH_REASON_UNSPECIFIED


async def test_pages_list_every_conversation_once_most_recently_used_first(home: Home) -> None:
    async with session_service(home) as stub:
        turns = [await talk(stub, f"number {number}", "yes") for number in range(5)]
        await talk(stub, "again", "yes", turns[1].conversation_id)
        seen, token = [], ""
        while True:
            request = session_pb2.ListConversationsRequest(page_size=2, page_token=token)
            page = await stub.ListConversations(request, timeout=5, metadata=ADA)
            seen.append([found.id for found in page.conversations])
            token = page.next_page_token
            if not token:
                break
    order = [turns[number].conversation_id for number in (1, 4, 3, 2, 0)]
    assert seen == [order[:2], order[2:4], order[4:]]


async def test_cleared_conversation_remains_and_starts_empty(home: Home) -> None:
    async with session_service(home) as stub:
        turn = await talk(stub, "old words", "yes", request_id="r")
        clear = session_pb2.ClearConversationRequest(conversation_id=turn.conversation_id)
        await stub.ClearConversation(clear, timeout=5, metadata=ADA)
        emptied = await conversation(stub, turn.conversation_id)
        fresh = await stub.BeginTurn(
            begin("new words", conversation_id=turn.conversation_id), timeout=5, metadata=ADA
        )
        stored = await conversation(stub, turn.conversation_id)
    assert (emptied.conversation.title, list(emptied.messages)) == ("", [])
    assert texts(fresh) == ["new words"]
    assert (stored.conversation.title, len(stored.messages)) == ("new words", 2)


async def test_deleted_conversation_leaves_no_bytes_in_the_sqlite_file(sqlite_home: Home) -> None:
    def on_disk() -> bytes:
        return b"".join(file.read_bytes() for file in (sqlite_home.directory / "state").iterdir())

    sampled = struct.pack("<3f", *SAMPLE.log_probs)
    async with session_service(sqlite_home) as stub:
        turn = await talk(stub, "xylophone", "saxophone", request_id="r")
        assert sampled in on_disk()
        delete = session_pb2.DeleteConversationRequest(conversation_id=turn.conversation_id)
        await stub.DeleteConversation(delete, timeout=5, metadata=ADA)
    data = on_disk()
    assert b"xylophone" not in data
    assert b"saxophone" not in data
    assert sampled not in data


async def test_conversations_survive_a_restart(home: Home) -> None:
    async with session_service(home) as stub:
        turn = await talk(stub, "hello", "hi")
    async with session_service(home) as stub:
        more = await stub.BeginTurn(
            begin("more", conversation_id=turn.conversation_id), timeout=5, metadata=ADA
        )
    assert texts(more) == ["hello", "hi", "more"]


async def test_cancelled_calls_do_not_break_the_service(home: Home) -> None:
    async with session_service(home) as stub:
        calls = [
            stub.BeginTurn(begin(f"hello {number}"), timeout=5, metadata=ADA)
            for number in range(20)
        ]
        await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        turn = await talk(stub, "hello", "hi")
        assert len((await conversation(stub, turn.conversation_id)).messages) == 2
