"""Removal of the messages of a conversation, of a conversation, or of all data of a user.

Changes are synced to disk when a call returns. Each removed answer gets an erasure record in the
outbox, which no later call removes. An answer without a published turn record gets one too, because
feedback on the answer may exist. Turn records that are not relayed yet are removed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from services.chassis.errors import NotFoundError
from services.chassis.identity import Caller
from services.contracts.limits import check_uuid
from services.session.message import Conversation
from services.session.relay.turn_record import TurnRecorder
from services.session.store.store import OwnedRows, Store

# Limits of one transaction of EraseUser, so that other transactions run in between. A single
# conversation may exceed MAX_MESSAGES.
MAX_CONVERSATIONS = 50
MAX_MESSAGES = 2_000


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
            batch = _limit_batch(rows.first_conversations(MAX_CONVERSATIONS))
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
        # Read before the removal: the erasure records need the ids of all answers.
        answers = rows.answers_without_texts(ids)
        rows.erase_messages(ids)
        now = self._now_us()
        records = [
            (answer.conversation_id, self._recorder.erased(owner, answer, now))
            for answer in answers
        ]
        rows.enqueue(records, erased=True)


def _limit_batch(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Return the first conversations with at most MAX_MESSAGES messages in total, at least one."""
    chosen: list[Conversation] = []
    messages = 0
    for conversation in conversations:
        # An upper bound of the number of messages.
        messages += conversation.next_position
        if chosen and messages > MAX_MESSAGES:
            break
        chosen.append(conversation)
    return chosen
