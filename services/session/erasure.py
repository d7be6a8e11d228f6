"""What a user may remove: the messages of a conversation, a conversation, everything. It is on the
disk when the call returns.

Every answer is taken back by a record of its own, which nothing removes: also one that no turn told
of, because people may have said something about it. Turns that still wait to be relayed go with the
messages.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from services.chassis.errors import NotFoundError
from services.chassis.identity import Caller
from services.session.limits import check_uuid
from services.session.message import Conversation
from services.session.store import OwnedRows, Store
from services.session.turn_record import TurnRecorder

# What one transaction removes for EraseUser at most, so that others get in between (a single
# conversation may be larger).
MOST_CONVERSATIONS = 50
MOST_MESSAGES = 2_000


class Erasure:
    """Removes; `wake` tells the relay that the outbox has something."""

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
        """Remove the messages, keep the conversation. Raises: InvalidArgumentError, NotFoundError."""
        check_uuid(conversation_id, "conversation_id")

        def work(rows: OwnedRows) -> None:
            conversation = rows.conversation(conversation_id, lock=True)
            self._erase(rows, owner, [conversation])
            rows.replace_conversation(replace(conversation, title="", update_us=self._now_us()))

        await self._store.erase(owner, work)
        self._wake()

    async def delete(self, owner: Caller, conversation_id: str) -> None:
        """Remove the conversation and its messages. Raises: InvalidArgumentError, NotFoundError."""
        check_uuid(conversation_id, "conversation_id")
        met: list[Conversation] = []

        def work(rows: OwnedRows) -> None:
            try:
                met.append(rows.conversation(conversation_id, lock=True))
            except NotFoundError:
                if met:  # an earlier run was stored, and the answer to its commit lost
                    return
                raise
            self._erase(rows, owner, met[-1:])
            rows.remove_conversations([conversation_id])

        await self._store.erase(owner, work)
        self._wake()

    async def erase_user(self, owner: Caller) -> int:
        """Remove all conversations of the user, some at a time. Returns how many it removed."""
        removed: set[str] = set()

        def work(rows: OwnedRows) -> bool:
            some = _bounded(rows.some_conversations(MOST_CONVERSATIONS))
            if some:
                self._erase(rows, owner, some)
                rows.remove_conversations([conversation.id for conversation in some])
            removed.update(conversation.id for conversation in some)
            return bool(some)

        while await self._store.erase(owner, work):
            self._wake()
        return len(removed)

    def _erase(self, rows: OwnedRows, owner: Caller, conversations: Sequence[Conversation]) -> None:
        ids = [conversation.id for conversation in conversations]
        answers = rows.answers_without_texts(ids)
        rows.erase_messages(ids)
        now = self._now_us()
        records = [
            (answer.conversation_id, self._recorder.erased(owner, answer, now))
            for answer in answers
        ]
        rows.enqueue(records, erased=True)


def _bounded(conversations: Sequence[Conversation]) -> list[Conversation]:
    """As many as have MOST_MESSAGES messages together, at least one; `next_position` is never less
    than their number.
    """
    chosen: list[Conversation] = []
    messages = 0
    for conversation in conversations:
        messages += conversation.next_position
        if chosen and messages > MOST_MESSAGES:
            break
        chosen.append(conversation)
    return chosen
