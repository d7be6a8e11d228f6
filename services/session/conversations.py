"""Stored conversations: reads by page or id, and the removal of messages, conversations and users.

Erasures are synced to disk when a call returns. Each removed answer gets an erasure record in the
outbox, which no later call removes. An answer without a published turn record gets one too, because
feedback on the answer may exist. Turn records that are not relayed yet are removed.
"""

import base64
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from services.chassis.errors import InvalidArgumentError, NotFoundError
from services.chassis.identity import Caller
from services.contracts.chat import FinishReason, Role
from services.contracts.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    ConversationLimitError,
    check_uuid,
    field_error,
)
from services.session.message import Conversation, Message, MessagePage, Page
from services.session.relay import TurnRecorder
from services.session.store.store import UNLIMITED, OwnedRows, Store

MESSAGE_TOKEN = re.compile(r"\d{1,9}", re.ASCII)
# Texts of one page of messages: an eighth of a gRPC message, and about 10 ms of CPU time as JSON.
MAX_PAGE_BYTES = 512 * 1024
# Kind and positions of an edit, as JSON. Conversion of an edit takes about 3 µs.
EDIT_BYTES = 64
PAGE_TOKEN = re.compile(r"(\d{1,18})/([0-9a-f-]{36})")
# Limits of one transaction of EraseUser, so that other transactions run in between. A single
# conversation may exceed MAX_MESSAGES.
MAX_CONVERSATIONS = 50
MAX_MESSAGES = 2_000


@dataclass(frozen=True)
class ConversationLimits:
    """Stored conversations of a user and of a tenant; 0 means unlimited.

    Conversations kept by their clients do not count.
    """

    per_user: int
    per_tenant: int

    def check_room(self, rows: OwnedRows) -> None:
        """Check the limits of the owner for another conversation.

        The count of a tenant is not locked, because all its users would wait for each other:
        conversations that begin at the same time may exceed the limit.

        Raises:
            ConversationLimitError: the user or the tenant has reached the limit.
        """
        if self.per_user and rows.count_conversations(self.per_user) >= self.per_user:
            raise _conversation_limit_error(f"{self.per_user:,} conversations of a user")
        if self.per_tenant and rows.count_tenant_conversations(self.per_tenant) >= self.per_tenant:
            raise _conversation_limit_error(f"{self.per_tenant:,} conversations of the tenant")


def _conversation_limit_error(limit: str) -> ConversationLimitError:
    return ConversationLimitError(
        "no further conversation can be stored: delete some, or continue one", limit=limit
    )


class Conversations:
    """Conversations of all users; every method reads the rows of one owner."""

    def __init__(self, store: Store, max_turn_seconds: float, now_us: Callable[[], int]) -> None:
        self._store = store
        self._max_turn_us = int(max_turn_seconds * 1e6)
        self._now_us = now_us

    async def message(self, owner: Caller, message_id: str) -> tuple[Message, bool | None]:
        """Return one message, and for an answer whether the enhancer has changed its question.

        Raises:
            InvalidArgumentError: the id is malformed.
            NotFoundError: the message is missing or belongs to another user.
        """
        check_uuid(message_id, "message_id")

        def read(rows: OwnedRows) -> tuple[Message, bool | None]:
            message = rows.message(message_id)
            is_answer = message.role is Role.ASSISTANT
            return message, rows.is_edited(message.parent_id) if is_answer else None

        message, question_enhanced = await self._store.read(owner, read)
        return self._expire(message), question_enhanced

    async def conversation(
        self, owner: Caller, conversation_id: str, page_size: int = 0, page_token: str = ""
    ) -> MessagePage:
        """Return one conversation and its newest messages, or those before the page of a token.

        A page ends early before its texts exceed MAX_PAGE_BYTES, but has at least one message.

        Raises:
            InvalidArgumentError: the id is malformed, the size is too large, or the token is not
                of an earlier page.
            NotFoundError: the conversation is missing or belongs to another user.
        """
        check_uuid(conversation_id, "conversation_id")
        size = _checked_size(page_size)
        if page_token and not MESSAGE_TOKEN.fullmatch(page_token):
            raise _token_error()
        # A token is the position of the oldest message of the previous page.
        before = int(page_token) if page_token else UNLIMITED
        conversation, found = await self._store.read(
            owner,
            lambda rows: (
                rows.conversation(conversation_id),
                rows.messages_before(conversation_id, before, size + 1),
            ),
        )
        shown: list[Message] = []
        room = MAX_PAGE_BYTES
        for message in found[:size]:
            original = "" if message.original_text == message.text else message.original_text
            room -= len(message.text.encode()) + len(original.encode())
            room -= sum(EDIT_BYTES + len(edit.replacement.encode()) for edit in message.edits)
            if shown and room < 0:
                break
            shown.append(self._expire(message))
        token = str(shown[-1].position) if len(shown) < len(found) else ""
        return MessagePage(conversation, tuple(reversed(shown)), token)

    async def page(self, owner: Caller, page_size: int, page_token: str) -> Page:
        """Return one page of conversations, most recently used first.

        Raises:
            InvalidArgumentError: the size is too large, or the token is not of an earlier page.
        """
        size = _checked_size(page_size)
        after: tuple[int, str] | None = None
        if page_token:
            try:
                match = PAGE_TOKEN.fullmatch(base64.urlsafe_b64decode(page_token.encode()).decode())
            except ValueError:
                match = None
            if match is None:
                raise _token_error()
            after = int(match[1]), match[2]
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


class Erasure:
    """Removes conversations of users; `wake` notifies the relay of new records in the outbox."""

    def __init__(
        self,
        store: Store,
        recorder: TurnRecorder,
        now_us: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._now_us = now_us
        self._wake = wake

    async def clear(self, owner: Caller, conversation_id: str) -> None:
        """Remove the messages of a conversation and keep the conversation.

        Raises:
            InvalidArgumentError: the id is malformed.
            NotFoundError: the conversation is missing or belongs to another user.
        """
        check_uuid(conversation_id, "conversation_id")

        def work(rows: OwnedRows) -> None:
            conversation = rows.conversation(conversation_id, lock=True)
            self._erase(rows, owner, [conversation])
            rows.replace_conversation(replace(conversation, title="", update_us=self._now_us()))

        await self._store.erase(owner, work)
        self._wake()

    async def delete(self, owner: Caller, conversation_id: str) -> None:
        """Remove a conversation and its messages.

        Raises:
            InvalidArgumentError: the id is malformed.
            NotFoundError: the conversation is missing or belongs to another user.
        """
        check_uuid(conversation_id, "conversation_id")
        found: list[Conversation] = []

        def work(rows: OwnedRows) -> None:
            try:
                found.append(rows.conversation(conversation_id, lock=True))
            except NotFoundError:
                # An earlier attempt was committed, but the answer to its commit was lost.
                if found:
                    return
                raise
            self._erase(rows, owner, found[-1:])
            rows.remove_conversations([conversation_id])

        await self._store.erase(owner, work)
        self._wake()

    async def erase_user(self, owner: Caller) -> int:
        """Remove all conversations of the user in several transactions; return their number."""
        removed: set[str] = set()

        def work(rows: OwnedRows) -> bool:
            # At most MAX_MESSAGES messages in total, but at least one conversation.
            batch: list[Conversation] = []
            messages = 0
            for conversation in rows.first_conversations(MAX_CONVERSATIONS):
                # An upper bound of the number of messages.
                messages += conversation.next_position
                if batch and messages > MAX_MESSAGES:
                    break
                batch.append(conversation)
            if batch:
                self._erase(rows, owner, batch)
                rows.remove_conversations([conversation.id for conversation in batch])
            removed.update(conversation.id for conversation in batch)
            return bool(batch)

        while await self._store.erase(owner, work):
            self._wake()
        return len(removed)

    def _erase(self, rows: OwnedRows, owner: Caller, conversations: Sequence[Conversation]) -> None:
        ids = [conversation.id for conversation in conversations]
        now = self._now_us()
        # Before the removal, because the records need the ids of all answers.
        for answers in rows.pages_of_answers(ids):
            records = [
                (answer.conversation_id, self._recorder.erased(owner, answer, now))
                for answer in answers
            ]
            rows.enqueue(records, erased=True)
        rows.erase_messages(ids)


def _checked_size(page_size: int) -> int:
    if page_size > MAX_PAGE_SIZE:
        raise field_error("page_size", f"1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
    return page_size or DEFAULT_PAGE_SIZE


def _token_error() -> InvalidArgumentError:
    return field_error("page_token", "the token of the previous page")
