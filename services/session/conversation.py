"""What a user may read of conversations: a message, a conversation, the list of them."""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from services.chassis.errors import InvalidArgumentError
from services.chassis.identity import Caller
from services.session.limits import check_page_size, check_uuid
from services.session.message import Conversation, FinishReason, Message, Page, Role
from services.session.store import Store

MAX_TITLE_CHARACTERS = 80
PAGE_TOKEN = re.compile(r"(\d{1,18})/([0-9a-f-]{36})")


class TokenCounts(Protocol):
    """Counts tokens as the model does."""

    async def count(self, texts: Sequence[str]) -> list[int]: ...


class Conversations:
    """The conversations of all users; every method acts for one."""

    def __init__(self, store: Store, max_turn_seconds: float, now_us: Callable[[], int]) -> None:
        self._store = store
        self._max_turn_us = int(max_turn_seconds * 1e6)
        self._now_us = now_us

    async def message(self, owner: Caller, message_id: str) -> Message:
        """One message. Raises: InvalidArgumentError, NotFoundError."""
        check_uuid(message_id, "message_id")
        return self._as_read(await self._store.read(owner, lambda rows: rows.message(message_id)))

    async def conversation(
        self, owner: Caller, conversation_id: str
    ) -> tuple[Conversation, list[Message]]:
        """One conversation and its messages, oldest first. Raises: InvalidArgumentError,
        NotFoundError.
        """
        check_uuid(conversation_id, "conversation_id")
        conversation, messages = await self._store.read(
            owner,
            lambda rows: (rows.conversation(conversation_id), rows.messages_of(conversation_id)),
        )
        return conversation, [self._as_read(message) for message in messages]

    async def page(self, owner: Caller, page_size: int, page_token: str) -> Page:
        """Conversations, last used first. Raises: InvalidArgumentError."""
        size, after = check_page_size(page_size), _position(page_token)
        found = await self._store.read(owner, lambda rows: rows.page(after, size + 1))
        shown = tuple(found[:size])
        return Page(shown, _token(shown[-1]) if len(found) > size else "")

    def _as_read(self, message: Message) -> Message:
        """An answer that nobody finished in time has failed: its gateway is gone."""
        if message.role is not Role.ASSISTANT or message.finish_reason is not FinishReason.OPEN:
            return message
        if self._now_us() - message.create_us <= self._max_turn_us:
            return message
        return replace(message, finish_reason=FinishReason.FAILED)


def title_of(messages: Sequence[Message]) -> str:
    """The first words of the first message of the user, at most 80 characters, cut between words
    where there are any.
    """
    texts = [
        message.text for message in messages if message.role is Role.USER and message.text.strip()
    ]
    words = " ".join(texts[0].split()) if texts else ""
    if len(words) <= MAX_TITLE_CHARACTERS:
        return words
    return words[: MAX_TITLE_CHARACTERS + 1].rsplit(" ", 1)[0][:MAX_TITLE_CHARACTERS]


def _token(conversation: Conversation) -> str:
    return base64.urlsafe_b64encode(f"{conversation.update_us}/{conversation.id}".encode()).decode()


def _position(page_token: str) -> tuple[int, str] | None:
    if not page_token:
        return None
    try:
        match = PAGE_TOKEN.fullmatch(base64.urlsafe_b64decode(page_token.encode()).decode())
    except ValueError:
        match = None
    if match is None:
        raise InvalidArgumentError(
            "page_token must be the next_page_token of the page before",
            field="page_token",
            limit="next_page_token of the page before",
        )
    return int(match[1]), match[2]
