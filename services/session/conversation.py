"""Reads of conversations: one message, one conversation, pages of conversations."""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from services.chassis.errors import InvalidArgumentError
from services.chassis.identity import Caller
from services.contracts.chat import FinishReason, Role
from services.contracts.limits import check_uuid
from services.session.limits import check_page_size
from services.session.message import Conversation, Message, Page
from services.session.store.store import Store

MAX_TITLE_CHARACTERS = 80
PAGE_TOKEN = re.compile(r"(\d{1,18})/([0-9a-f-]{36})")


class Conversations:
    """Conversations of all users; every method reads the rows of one owner."""

    def __init__(self, store: Store, max_turn_seconds: float, now_us: Callable[[], int]) -> None:
        self._store = store
        self._max_turn_us = int(max_turn_seconds * 1e6)
        self._now_us = now_us

    async def message(self, owner: Caller, message_id: str) -> Message:
        """Return one message.

        Raises:
            InvalidArgumentError: the id is malformed.
            NotFoundError: the message is missing or belongs to another user.
        """
        check_uuid(message_id, "message_id")
        message = await self._store.read(owner, lambda rows: rows.message(message_id))
        return self._expire(message)

    async def conversation(
        self, owner: Caller, conversation_id: str
    ) -> tuple[Conversation, list[Message]]:
        """Return one conversation and its messages, oldest first.

        Raises:
            InvalidArgumentError: the id is malformed.
            NotFoundError: the conversation is missing or belongs to another user.
        """
        check_uuid(conversation_id, "conversation_id")
        conversation, messages = await self._store.read(
            owner,
            lambda rows: (rows.conversation(conversation_id), rows.messages_of(conversation_id)),
        )
        return conversation, [self._expire(message) for message in messages]

    async def page(self, owner: Caller, page_size: int, page_token: str) -> Page:
        """Return one page of conversations, most recently used first.

        Raises:
            InvalidArgumentError: the size is too large, or the token is not of an earlier page.
        """
        size, after = check_page_size(page_size), _decode_page_token(page_token)
        # One more row than the page shows whether a next page exists.
        found = await self._store.read(owner, lambda rows: rows.page(after, size + 1))
        shown = tuple(found[:size])
        if len(found) <= size:
            return Page(shown, "")
        token = f"{shown[-1].update_us}/{shown[-1].id}"
        return Page(shown, base64.urlsafe_b64encode(token.encode()).decode())

    def _expire(self, message: Message) -> Message:
        """Mark an answer as failed if it is open for longer than the longest turn."""
        if message.role is not Role.ASSISTANT or message.finish_reason is not FinishReason.OPEN:
            return message
        if self._now_us() - message.create_us <= self._max_turn_us:
            return message
        return replace(message, finish_reason=FinishReason.FAILED)


def title_of(messages: Sequence[Message]) -> str:
    """Return the first words of the first user message, at most MAX_TITLE_CHARACTERS.

    The text is cut between words; a single long word is cut inside.
    """
    texts = [
        message.text for message in messages if message.role is Role.USER and message.text.strip()
    ]
    words = " ".join(texts[0].split()) if texts else ""
    if len(words) <= MAX_TITLE_CHARACTERS:
        return words
    return words[: MAX_TITLE_CHARACTERS + 1].rsplit(" ", 1)[0][:MAX_TITLE_CHARACTERS]


def _decode_page_token(page_token: str) -> tuple[int, str] | None:
    if not page_token:
        return None
    try:
        match = PAGE_TOKEN.fullmatch(base64.urlsafe_b64decode(page_token.encode()).decode())
    except ValueError:
        match = None
    if match is None:
        raise InvalidArgumentError(
            "page_token must be the next_page_token of the previous page",
            field="page_token",
            limit="next_page_token of the previous page",
        )
    return int(match[1]), match[2]
