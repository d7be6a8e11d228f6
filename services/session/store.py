"""Conversations in a database, SQLite or Postgres. `OwnedRows` puts the owner into every query: a foreign row is a missing one.

A message's or conversation's absence is one error with one text, so that nobody learns what others have.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Table, delete, insert, select, tuple_, update
from sqlalchemy.sql.elements import ColumnElement

from services.chassis.errors import NotFoundError
from services.chassis.identity import Caller
from services.session.database import Database
from services.session.message import Conversation, Message, StoredTurn
from services.session.rows import (
    conversation_from,
    conversation_row,
    message_from,
    message_row,
    stored_turn_from,
)
from services.session.tables import conversations, messages, outbox, turns

ResultT = TypeVar("ResultT")


class Store:
    """Runs work on one user's rows, each in a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """The work sees one state of the database."""
        return await self._database.read(lambda connection: work(OwnedRows(connection, owner)))

    async def write(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """All of the work is stored, or nothing; it may be run again from its beginning."""
        return await self._database.write(lambda connection: work(OwnedRows(connection, owner)))

    async def erase(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """As write, and on the disk when it returns."""
        return await self._database.erase(lambda connection: work(OwnedRows(connection, owner)))


class OwnedRows:
    """The rows of one user within one transaction; blocking."""

    def __init__(self, connection: Connection, owner: Caller) -> None:
        self._connection = connection
        self._owner = owner

    def conversation(self, conversation_id: str, *, lock: bool = False) -> Conversation:
        """One conversation; `lock` makes other writers of it wait. Raises: NotFoundError."""
        query = select(conversations).where(conversations.c.id == conversation_id, *self._mine(conversations))
        row = self._connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            raise _missing("conversation")
        return conversation_from(row)

    def page(self, after: tuple[int, str] | None, size: int) -> list[Conversation]:
        """Conversations, last used first, that come after (update_us, id)."""
        key = tuple_(conversations.c.update_us, conversations.c.id)
        query = select(conversations).where(*self._mine(conversations))
        if after is not None:
            query = query.where(key < after)
        query = query.order_by(conversations.c.update_us.desc(), conversations.c.id.desc()).limit(size)
        return [conversation_from(row) for row in self._connection.execute(query)]

    def message(self, message_id: str, *, lock: bool = False) -> Message:
        """One message; `lock` makes other writers of it wait. Raises: NotFoundError."""
        query = select(messages).where(messages.c.id == message_id, *self._mine(messages))
        row = self._connection.execute(query.with_for_update() if lock else query).first()
        if row is None:
            raise _missing("message")
        return message_from(row)

    def newest(self, conversation_id: str) -> str:
        """The id of the message that was stored last, or "". It is a leaf: a child would be newer."""
        query = (
            select(messages.c.id)
            .where(messages.c.conversation_id == conversation_id, *self._mine(messages))
            .order_by(messages.c.position.desc())
            .limit(1)
        )
        return self._connection.execute(query).scalar() or ""

    def path(self, message_id: str) -> list[Message]:
        """From the root to this message; empty if there is none."""
        step = (
            select(messages.c.id, messages.c.parent_id)
            .where(messages.c.id == message_id, *self._mine(messages))
            .cte("step", recursive=True)
        )
        above = select(messages.c.id, messages.c.parent_id).where(messages.c.id == step.c.parent_id)
        step = step.union_all(above)
        query = (
            select(messages)
            .join(step, step.c.id == messages.c.id)
            .where(*self._mine(messages))
            .order_by(messages.c.position)
        )
        return [message_from(row) for row in self._connection.execute(query)]

    def messages_of(self, conversation_id: str) -> list[Message]:
        """All messages of a conversation, oldest first."""
        query = select(messages).where(messages.c.conversation_id == conversation_id, *self._mine(messages))
        return [message_from(row) for row in self._connection.execute(query.order_by(messages.c.position))]

    def messages_by_id(self, ids: Sequence[str]) -> list[Message]:
        """These messages in this order; those that are gone are left out."""
        query = select(messages).where(messages.c.id.in_(ids), *self._mine(messages))
        found = {row.id: message_from(row) for row in self._connection.execute(query)}
        return [found[message_id] for message_id in ids if message_id in found]

    def add_conversation(self, conversation: Conversation) -> None:
        """Store a new conversation."""
        self._connection.execute(insert(conversations), conversation_row(conversation, self._owner))

    def replace_conversation(self, conversation: Conversation) -> None:
        """Store title, times and next position anew."""
        query = update(conversations).where(conversations.c.id == conversation.id, *self._mine(conversations))
        self._connection.execute(
            query.values(
                title=conversation.title,
                update_us=conversation.update_us,
                next_position=conversation.next_position,
            )
        )

    def add_messages(self, new: Sequence[Message]) -> None:
        """Store new messages."""
        self._connection.execute(insert(messages), [message_row(message, self._owner) for message in new])

    def replace_answer(self, message: Message, now_us: int) -> None:
        """Store how an answer ended; its conversation was used now."""
        query = update(messages).where(messages.c.id == message.id, *self._mine(messages))
        self._connection.execute(
            query.values(
                text=message.text,
                tokens=message.tokens,
                model_version=message.model_version,
                arm=message.arm,
                finish_reason=message.finish_reason,
            )
        )
        used = update(conversations).where(conversations.c.id == message.conversation_id, *self._mine(conversations))
        self._connection.execute(used.values(update_us=now_us))

    def turn(self, request_id: str) -> StoredTurn | None:
        """What the user began under this idempotency key."""
        query = select(turns).where(turns.c.request_id == request_id, *self._mine(turns))
        row = self._connection.execute(query).first()
        return None if row is None else stored_turn_from(row)

    def add_turn(self, request_id: str, turn: StoredTurn) -> None:
        """Store it. Raises sqlalchemy.exc.IntegrityError if another transaction did so first."""
        owned = {"tenant": self._owner.tenant, "user": self._owner.user, "request_id": request_id}
        self._connection.execute(insert(turns), {**vars(turn), **owned})

    def erase_messages(self, conversation_id: str) -> None:
        """Remove messages, idempotency keys and records that were not relayed yet."""
        self._connection.execute(delete(outbox).where(outbox.c.conversation_id == conversation_id))
        for table in (turns, messages):
            mine = self._mine(table)
            self._connection.execute(delete(table).where(table.c.conversation_id == conversation_id, *mine))

    def remove_conversation(self, conversation_id: str) -> None:
        """Remove the conversation itself."""
        query = delete(conversations).where(conversations.c.id == conversation_id, *self._mine(conversations))
        self._connection.execute(query)

    def enqueue(self, conversation_id: str, payloads: Sequence[bytes]) -> None:
        """Put records into the outbox; they are relayed in this order."""
        rows = [{"conversation_id": conversation_id, "refused": False, "payload": payload} for payload in payloads]
        self._connection.execute(insert(outbox), rows)

    def _mine(self, table: Table) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return table.c.tenant == self._owner.tenant, table.c.user == self._owner.user


def _missing(what: str) -> NotFoundError:
    return NotFoundError(f"no such {what}", field=f"{what}_id")
