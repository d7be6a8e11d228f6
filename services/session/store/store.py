"""Store of conversations, and conversion of rows. `OwnedRows` passes its owner to all statements.

Missing rows and rows of other users give the same error with the same text, so that the existence
of other users' rows is not revealed. A turn reads dozens of earlier messages, hence the conversion
of rows is written for speed.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from sqlalchemy import Connection, CursorResult, Executable, Row

from services.chassis.errors import NotFoundError
from services.chassis.identity import Caller
from services.contracts.chat import FinishReason, Role, Task, TextEdit
from services.session.message import Conversation, Message, StoredTurn
from services.session.store.database import Database
from services.session.store.tables import (
    ADD_CONVERSATION,
    ADD_MESSAGES,
    ADD_RECORDS,
    ADD_TURN,
    ANSWERS_WITHOUT_TEXTS,
    CHANGE_CONVERSATION,
    CHANGE_MESSAGE,
    CONTEXT_COLUMNS,
    CONVERSATION,
    COUNT_CONVERSATIONS,
    COUNT_TENANT_CONVERSATIONS,
    FIRST_PAGE,
    IS_EDITED,
    LOCK_OWNER,
    LOCKED_CONVERSATION,
    LOCKED_CONVERSATION_OF_MESSAGE,
    LOCKED_CONVERSATIONS,
    MESSAGE,
    MESSAGES_BEFORE,
    MESSAGES_BY_ID,
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
UNLIMITED = 2**31 - 1
# About 20 ms of CPU time with their erasure records.
ANSWERS_PER_PAGE = 1_000


class Store:
    """Runs functions on the rows of one user, each in its own transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """Run read-only work on one snapshot of the database."""
        return await self._database.read(lambda connection: work(OwnedRows(connection, owner)))

    async def write(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """Commit all changes of the work or none; for repeated runs see `Database.write`."""
        return await self._database.write(lambda connection: work(OwnedRows(connection, owner)))

    async def erase(self, owner: Caller, work: Callable[["OwnedRows"], ResultT]) -> ResultT:
        """Run work as `write`; the changes are synced to disk when the call returns."""
        return await self._database.erase(lambda connection: work(OwnedRows(connection, owner)))


class OwnedRows:
    """The rows of one user within one transaction; blocking."""

    def __init__(self, connection: Connection, owner: Caller) -> None:
        self._connection = connection
        self._owner = owner
        self._owner_parameters = {"owner_tenant": owner.tenant, "owner_user": owner.user}

    def conversation(self, conversation_id: str, *, lock: bool = False) -> Conversation:
        """Return one conversation; `lock` blocks other writers until the transaction ends.

        Raises:
            NotFoundError: the conversation is missing or belongs to another user.
        """
        statement = LOCKED_CONVERSATION if lock else CONVERSATION
        return Conversation(**self._one("conversation", statement, conversation_id)._mapping)

    def conversation_of_message(self, message_id: str) -> Conversation:
        """Lock and return the conversation of a message.

        Raises:
            NotFoundError: the message is missing or belongs to another user.
        """
        row = self._one("message", LOCKED_CONVERSATION_OF_MESSAGE, message_id)
        return Conversation(**row._mapping)

    def first_conversations(self, size: int) -> list[Conversation]:
        """Lock and return the first `size` conversations in the order of their ids."""
        return [
            Conversation(**row) for row in self._run(LOCKED_CONVERSATIONS, size=size).mappings()
        ]

    def page(self, after: tuple[int, str] | None, size: int) -> list[Conversation]:
        """Return conversations, most recently used first, that follow `after` (update_us, id)."""
        if after is None:
            return [Conversation(**row) for row in self._run(FIRST_PAGE, size=size).mappings()]
        rows = self._run(NEXT_PAGE, size=size, after_us=after[0], after_id=after[1])
        return [Conversation(**row) for row in rows.mappings()]

    def message(self, message_id: str) -> Message:
        """Return one message.

        Raises:
            NotFoundError: the message is missing or belongs to another user.
        """
        return message_from(self._one("message", MESSAGE, message_id))

    def is_edited(self, message_id: str) -> bool:
        """Return True if the enhancer has changed a message; False for a missing message."""
        return bool(self._run(IS_EDITED, row_id=message_id).scalar())

    def newest(self, conversation_id: str) -> str:
        """Return the id of the newest message, which is always a leaf, or ""."""
        return self._run(NEWEST, conversation_id=conversation_id).scalar() or ""

    def path(self, message_id: str, most: int = UNLIMITED) -> list[Message]:
        """Return a message and its nearest ancestors, at most `most` messages, oldest first.

        The messages have the columns CONTEXT_COLUMNS only. Empty if the message is missing.
        """
        return [context_message_from(row) for row in self._run(PATH, row_id=message_id, most=most)]

    def messages_before(self, conversation_id: str, before: int, size: int) -> list[Message]:
        """Return the newest `size` messages of a conversation before a position, newest first."""
        rows = self._run(MESSAGES_BEFORE, conversation_id=conversation_id, before=before, size=size)
        return [message_from(row) for row in rows]

    def pages_of_answers(self, conversation_ids: Sequence[str]) -> Iterator[list[Message]]:
        """Yield the answers of conversations without texts, oldest first per conversation.

        A page is small enough for one callback of the event loop, which waits for the database
        between two pages.
        """
        after = ("", -1)
        while True:
            found = self._run(
                ANSWERS_WITHOUT_TEXTS,
                ids=conversation_ids,
                after_id=after[0],
                after_position=after[1],
                size=ANSWERS_PER_PAGE,
            )
            answers = [message_from(row) for row in found]
            yield answers
            if len(answers) < ANSWERS_PER_PAGE:
                return
            after = (answers[-1].conversation_id, answers[-1].position)

    def messages_by_id(self, ids: Sequence[str]) -> list[Message]:
        """Return messages in the order of `ids`; missing messages are omitted."""
        found = {row[0]: message_from(row) for row in self._run(MESSAGES_BY_ID, ids=ids)}
        return [found[message_id] for message_id in ids if message_id in found]

    def count_conversations(self, most: int) -> int:
        """Return the number of the owner's counted conversations, at most `most`.

        Until the transaction ends, counts of the same owner wait, so that two transactions cannot
        both use the last place.
        """
        # SQLite has one writer.
        if self._connection.dialect.name == "postgresql":
            self._run(LOCK_OWNER)
        return int(self._run(COUNT_CONVERSATIONS, most=most).scalar_one())

    def count_tenant_conversations(self, most: int) -> int:
        """Return the number of the tenant's counted conversations, at most `most`."""
        statement, tenant = COUNT_TENANT_CONVERSATIONS, self._owner.tenant
        found = self._connection.execute(statement, {"owner_tenant": tenant, "most": most})
        return int(found.scalar_one())

    def add_conversation(self, conversation: Conversation) -> None:
        """Store a new conversation."""
        self._connection.execute(ADD_CONVERSATION, conversation_row(conversation, self._owner))

    def replace_conversation(self, conversation: Conversation) -> None:
        """Update title, time of last use and next position of a conversation."""
        self._run(
            CHANGE_CONVERSATION,
            row_id=conversation.id,
            title=conversation.title,
            update_us=conversation.update_us,
            next_position=conversation.next_position,
        )

    def remove_conversations(self, conversation_ids: Sequence[str]) -> None:
        """Remove the rows of conversations, without their messages."""
        self._run(REMOVE_CONVERSATIONS, ids=conversation_ids)

    def add_messages(self, new: Sequence[Message]) -> None:
        """Store new messages in one statement."""
        self._connection.execute(
            ADD_MESSAGES, [message_row(message, self._owner) for message in new]
        )

    def replace_answer(self, message: Message, now_us: int) -> None:
        """Store a finished answer and update the last use of its conversation."""
        self._run(
            CHANGE_MESSAGE,
            row_id=message.id,
            text=message.text,
            tokens=message.tokens,
            model_version=message.model_version,
            arm=message.arm,
            finish_reason=message.finish_reason,
            task=message.task,
            guard_category=message.guard_category,
            guard_score=message.guard_score,
            policy_version=message.policy_version,
        )
        self._run(CHANGE_CONVERSATION, row_id=message.conversation_id, update_us=now_us)

    def turn(self, request_id: str) -> StoredTurn | None:
        """Return the turn that was begun with this idempotency key, or None."""
        row = self._run(TURN, key=request_id).mappings().first()
        return None if row is None else StoredTurn(**row)

    def add_turn(self, request_id: str, turn: StoredTurn) -> None:
        """Store a begun turn; a unique violation if another transaction stored the key first."""
        owned = {"tenant": self._owner.tenant, "user": self._owner.user, "request_id": request_id}
        self._connection.execute(ADD_TURN, {**vars(turn), **owned})

    def erase_messages(self, conversation_ids: Sequence[str]) -> None:
        """Remove messages, idempotency keys and turn records that are not relayed yet.

        The caller must have checked that the conversations belong to the owner.
        """
        self._connection.execute(REMOVE_TURN_RECORDS, {"ids": conversation_ids})
        self._run(REMOVE_TURNS, ids=conversation_ids)
        self._run(REMOVE_MESSAGES, ids=conversation_ids)

    def enqueue(self, records: Sequence[tuple[str, bytes]], *, erased: bool = False) -> None:
        """Add records (conversation id, payload) to the outbox, to be relayed in this order."""
        rows = [
            {"conversation_id": id_, "refused": False, "erased": erased, "payload": payload}
            for id_, payload in records
        ]
        if rows:
            self._connection.execute(ADD_RECORDS, rows)

    def _run(self, statement: Executable, **parameters: object) -> CursorResult[Any]:
        return self._connection.execute(statement, {**parameters, **self._owner_parameters})

    def _one(self, kind: str, statement: Executable, row_id: str) -> Row[Any]:
        row = self._run(statement, row_id=row_id).first()
        if row is None:
            raise NotFoundError(f"no such {kind}", field=f"{kind}_id")
        return row


# A dict look-up takes a tenth of the time of an enum call.
_ROLES = {role.value: role for role in Role}
_TASKS = {task.value: task for task in Task}
_FINISHES = {finish.value: finish for finish in FinishReason}


def message_from(row: Any) -> Message:
    """Create a message from a row with the columns `tables.MESSAGE_COLUMNS`."""
    original_text, edits, context_ids, model_version, arm, *verdict = row[len(CONTEXT_COLUMNS) :]
    guard_category, guard_score, policy_version = verdict
    return replace(
        context_message_from(row[: len(CONTEXT_COLUMNS)]),
        original_text=original_text,
        edits=tuple(TextEdit(**edit) for edit in json.loads(edits)) if edits else (),
        context_ids=tuple(context_ids.split()) if context_ids else (),
        model_version=model_version,
        arm=arm,
        guard_category=guard_category,
        guard_score=guard_score,
        policy_version=policy_version,
    )


def context_message_from(row: Any) -> Message:
    """Create a message from a row with the columns `tables.CONTEXT_COLUMNS`.

    These columns suffice for the selection of a context.
    """
    (
        message_id,
        conversation_id,
        text,
        position,
        tokens,
        create_us,
        role,
        task,
        finish_reason,
        parent_id,
        depth,
        pinned_ids,
    ) = row
    return Message(
        message_id,
        conversation_id,
        text,
        position,
        tokens,
        create_us,
        _ROLES[role],
        _TASKS[task],
        _FINISHES[finish_reason],
        parent_id,
        depth,
        tuple(pinned_ids.split()) if pinned_ids else (),
    )


def message_row(message: Message, owner: Caller) -> Mapping[str, object]:
    """Return the column values of a message."""
    return {
        **vars(message),
        "tenant": owner.tenant,
        "user": owner.user,
        "edits": json.dumps([asdict(edit) for edit in message.edits]) if message.edits else "",
        "pinned_ids": " ".join(message.pinned_ids),
        "context_ids": " ".join(message.context_ids),
    }


def conversation_row(conversation: Conversation, owner: Caller) -> Mapping[str, object]:
    """Return the column values of a conversation."""
    return {**vars(conversation), "tenant": owner.tenant, "user": owner.user}
