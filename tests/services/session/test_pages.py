"""Pages of messages: a conversation of any size can be opened."""

import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from tests.services.session.service import (
    ADA,
    Home,
    read_messages,
    session_service,
    store_answers,
    talk,
)

PAGE_BYTES = 512 * 1024


def history(texts: list[str]) -> list[chat_pb2.HistoryMessage]:
    return [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text=text) for text in texts]


async def test_conversation_beyond_one_grpc_message_is_read_in_pages(home: Home) -> None:
    """Finding S-18: a conversation over 4 MiB could not be opened."""
    texts = [f"{number:03}" + "x" * 32_000 for number in range(130)]
    async with session_service(home) as stub:
        identity = (await talk(stub, "one", "two")).conversation_id
        await store_answers(home, identity, texts)
        page = await stub.GetConversation(
            session_pb2.GetConversationRequest(conversation_id=identity), timeout=5, metadata=ADA
        )
        found = await read_messages(stub, identity)
    assert 1 <= page.ByteSize() <= PAGE_BYTES + 16 * 1024
    assert page.next_page_token
    assert [message.id for message in found[-len(page.messages) :]] == [
        message.id for message in page.messages
    ]
    assert [message.text for message in found] == ["one", "two", *texts]
    assert not any(message.original_text for message in found)


@pytest.mark.parametrize(("page_size", "sizes"), [(0, [50, 12]), (31, [31, 31]), (100, [62])])
async def test_newest_page_comes_first_with_a_token(
    home: Home, page_size: int, sizes: list[int]
) -> None:
    """Finding S-18: a client that sends no page size gets the newest 50 messages."""
    async with session_service(home) as stub:
        turn = await talk(stub, "now", "yes", history=history([f"{n}" for n in range(60)]))
        request = session_pb2.GetConversationRequest(
            conversation_id=turn.conversation_id, page_size=page_size
        )
        pages = []
        while not pages or request.page_token:
            page = await stub.GetConversation(request, timeout=5, metadata=ADA)
            pages.append([message.text for message in page.messages])
            request.page_token = page.next_page_token
    assert [len(texts) for texts in pages] == sizes
    assert [text for page in reversed(pages) for text in page] == [
        *(f"{n}" for n in range(60)),
        "now",
        "yes",
    ]
