"""Conversations in a database. `OwnedRows` gives its owner to every statement: a foreign row is
missing.

A message's or conversation's absence is one error with one text, so that nobody learns what others
have.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Executable

from services.chassis.errors import NotFoundError
from services.chassis.identity import Caller
from services.session.database import Database
from services.session.message import Conversation, Message, StoredTurn
from services.session.rows import (
    conversation_from,
    conversation_row,
    heard_message_from,
    message_from,
    message_row,
    stored_turn_from,
)
from services.session.statements import (
    ADD_CONVERSATION,
    ADD_MESSAGES,
    ADD_RECORDS,
    ADD_TURN,
    ANSWERS_WITHOUT_TEXTS,
    CHANGE_CONVERSATION,
    CHANGE_MESSAGE,
    CONVERSATION,
    FIRST_PAGE,
    LOCKED_CONVERSATION,
    LOCKED_CONVERSATION_WITH,
    LOCKED_CONVERSATIONS,
    MESSAGE,
    MESSAGES_BY_ID,
    MESSAGES_OF,
    NEWEST,
    NEXT_PAGE,
    PATH,
    REMOVE_CONVERSATIONS,
    REMOVE_MESSAGES,
    REMOVE_TURN_RECORDS,
    REMOVE_TURNS,
    TURN,
)

ResultT = TypeVar("ResultT")
EVERY = 2**31 - 1


class Store:
    """Runs work on one user's rows, each in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """The work sees one state of the database."""
        return await self._database.read(lambda connection: work(OwnedRows(connection, owner)))

    async def write(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """All of the work is stored, or nothing; it may be run again, even after it was stored: see
        `database.Database`.
        """
        return await self._database.write(lambda connection: work(OwnedRows(connection, owner)))

    async def erase(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """As write, and on the disk when it returns."""
        return await self._database.erase(lambda connection: work(OwnedRows(connection, owner)))


class OwnedRows:
    """The rows of one user within one transaction; blocking."""

    def __init__(self, connection: Connection, owner: Caller) -> None:
        self._connection = connection
        self._owner = owner
        self._mine = {"owner_tenant": owner.tenant, "owner_user": owner.user}

    def conversation(self, conversation_id: str, *, lock: bool = False) -> Conversation:
        """One conversation; `lock` makes other writers of it wait. Raises: NotFoundError."""
        row = self._run(
            LOCKED_CONVERSATION if lock else CONVERSATION, row_id=conversation_id
        ).first()
        if row is None:
            raise _missing("conversation")
        return conversation_from(row)

    def conversation_with(self, message_id: str) -> Conversation:
        """The conversation that has this message, locked. Raises: NotFoundError."""
        row = self._run(LOCKED_CONVERSATION_WITH, row_id=message_id).first()
        if row is None:
            raise _missing("message")
        return conversation_from(row)

    def some_conversations(self, size: int) -> list[Conversation]:
        """The first conversations in the order of their ids, locked."""
        return [conversation_from(row) for row in self._run(LOCKED_CONVERSATIONS, size=size)]

    def page(self, after: tuple[int, str] | None, size: int) -> list[Conversation]:
        """Conversations, last used first, that come after (update_us, id)."""
        if after is None:
            return [conversation_from(row) for row in self._run(FIRST_PAGE, size=size)]
        rows = self._run(NEXT_PAGE, size=size, after_us=after[0], after_id=after[1])
        return [conversation_from(row) for row in rows]

    def message(self, message_id: str) -> Message:
        """One message. Raises: NotFoundError."""
        row = self._run(MESSAGE, row_id=message_id).first()
        if row is None:
            raise _missing("message")
        return message_from(row)

    def newest(self, conversation_id: str) -> str:
        """The id of the message that was stored last, or "". It is a leaf: a child would be newer."""
        return self._run(NEWEST, conversation_id=conversation_id).scalar() or ""

    def path(self, message_id: str, most: int = EVERY) -> list[Message]:
        """The newest of those that lead to this message, itself the last, as a context is chosen by
        them; empty if there is none.
        """
        return [heard_message_from(row) for row in self._run(PATH, row_id=message_id, most=most)]

    def messages_of(self, conversation_id: str) -> list[Message]:
        """All messages of a conversation, oldest first."""
        return [
            message_from(row) for row in self._run(MESSAGES_OF, conversation_id=conversation_id)
        ]

    def answers_without_texts(self, conversation_ids: Sequence[str]) -> list[Message]:
        """The answers of these conversations, each conversation's oldest first, without any texts."""
        return [message_from(row) for row in self._run(ANSWERS_WITHOUT_TEXTS, ids=conversation_ids)]

    def messages_by_id(self, ids: Sequence[str]) -> list[Message]:
        """These messages in this order; those that are gone are left out."""
        found = {row[0]: message_from(row) for row in self._run(MESSAGES_BY_ID, ids=ids)}
        return [found[message_id] for message_id in ids if message_id in found]

    def add_conversation(self, conversation: Conversation) -> None:
        """Store a new conversation."""
        self._connection.execute(ADD_CONVERSATION, conversation_row(conversation, self._owner))

    def replace_conversation(self, conversation: Conversation) -> None:
        """Store title, times and next position anew."""
        self._run(
            CHANGE_CONVERSATION,
            row_id=conversation.id,
            title=conversation.title,
            update_us=conversation.update_us,
            next_position=conversation.next_position,
        )

    def remove_conversations(self, conversation_ids: Sequence[str]) -> None:
        """Remove the conversations themselves."""
        self._run(REMOVE_CONVERSATIONS, ids=conversation_ids)

    def add_messages(self, new: Sequence[Message]) -> None:
        """Store new messages."""
        self._connection.execute(
            ADD_MESSAGES, [message_row(message, self._owner) for message in new]
        )

    def replace_answer(self, message: Message, now_us: int) -> None:
        """Store how an answer ended; its conversation was used now."""
        self._run(
            CHANGE_MESSAGE,
            row_id=message.id,
            text=message.text,
            tokens=message.tokens,
            model_version=message.model_version,
            arm=message.arm,
            finish_reason=message.finish_reason,
        )
        self._run(CHANGE_CONVERSATION, row_id=message.conversation_id, update_us=now_us)

    def turn(self, request_id: str) -> StoredTurn | None:
        """What the user began under this idempotency key."""
        row = self._run(TURN, key=request_id).first()
        return None if row is None else stored_turn_from(row)

    def add_turn(self, request_id: str, turn: StoredTurn) -> None:
        """Store it; collides if another transaction did so first."""
        owned = {"tenant": self._owner.tenant, "user": self._owner.user, "request_id": request_id}
        self._connection.execute(ADD_TURN, {**vars(turn), **owned})

    def erase_messages(self, conversation_ids: Sequence[str]) -> None:
        """Remove messages, idempotency keys and turns that were not relayed yet. The conversations
        must be the user's.
        """
        self._connection.execute(REMOVE_TURN_RECORDS, {"ids": conversation_ids})
        self._run(REMOVE_TURNS, ids=conversation_ids)
        self._run(REMOVE_MESSAGES, ids=conversation_ids)

    def enqueue(self, records: Sequence[tuple[str, bytes]], *, erased: bool = False) -> None:
        """Put records, each with its conversation, into the outbox; they are relayed in this order."""
        rows = [
            {"conversation_id": of, "refused": False, "erased": erased, "payload": payload}
            for of, payload in records
        ]
        if rows:
            self._connection.execute(ADD_RECORDS, rows)

    def _run(self, statement: Executable, **parameters: object) -> CursorResult[Any]:
        return self._connection.execute(statement, {**parameters, **self._mine})


def _missing(what: str) -> NotFoundError:
    return NotFoundError(f"no such {what}", field=f"{what}_id")
