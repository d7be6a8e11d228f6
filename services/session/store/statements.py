"""SQL statements of the store, built once, since building a statement takes as long as running it.

All statements on rows of users filter by `owner_tenant` and `owner_user`, so that a row of another
user is not found. Updates take the changed columns as parameters.
"""

from sqlalchemy import (
    Integer,
    Table,
    bindparam,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

from services.session.store.tables import conversations, messages, outbox, relay_lease, turns


def _owned(table: Table) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.c.tenant == bindparam("owner_tenant"), table.c.user == bindparam("owner_user")


# In the order of the fields of `message.Message`, as `rows.context_message_from` expects.
CONTEXT_COLUMNS = (
    messages.c.id,
    messages.c.conversation_id,
    messages.c.text,
    messages.c.position,
    messages.c.tokens,
    messages.c.create_us,
    messages.c.role,
    messages.c.task,
    messages.c.finish_reason,
    messages.c.parent_id,
    messages.c.depth,
    messages.c.pinned_ids,
)
MESSAGE_COLUMNS = (
    *CONTEXT_COLUMNS,
    messages.c.original_text,
    messages.c.edits,
    messages.c.context_ids,
    messages.c.model_version,
    messages.c.arm,
)

TEXTS = {"text", "original_text", "edits", "context_ids", "pinned_ids"}

# A change of a conversation locks its row first, and reads afterwards.
CONVERSATION = select(conversations).where(
    conversations.c.id == bindparam("row_id"), *_owned(conversations)
)
LOCKED_CONVERSATION = CONVERSATION.with_for_update()
LOCKED_CONVERSATION_OF_MESSAGE = (
    select(conversations)
    .where(
        conversations.c.id
        == select(messages.c.conversation_id)
        .where(messages.c.id == bindparam("row_id"), *_owned(messages))
        .scalar_subquery(),
        *_owned(conversations),
    )
    .with_for_update()
)
# Locked in one order, so that concurrent erasures of one user do not deadlock.
LOCKED_CONVERSATIONS = (
    select(conversations)
    .where(*_owned(conversations))
    .order_by(conversations.c.id)
    .limit(bindparam("size"))
    .with_for_update()
)
FIRST_PAGE = (
    select(conversations)
    .where(*_owned(conversations))
    .order_by(conversations.c.update_us.desc(), conversations.c.id.desc())
    .limit(bindparam("size"))
)
NEXT_PAGE = FIRST_PAGE.where(
    tuple_(conversations.c.update_us, conversations.c.id)
    < tuple_(bindparam("after_us"), bindparam("after_id"))
)
ADD_CONVERSATION = insert(conversations)
CHANGE_CONVERSATION = update(conversations).where(
    conversations.c.id == bindparam("row_id"), *_owned(conversations)
)
REMOVE_CONVERSATIONS = delete(conversations).where(
    conversations.c.id.in_(bindparam("ids", expanding=True)), *_owned(conversations)
)

MESSAGE = select(*MESSAGE_COLUMNS).where(messages.c.id == bindparam("row_id"), *_owned(messages))
MESSAGES_OF = (
    select(*MESSAGE_COLUMNS)
    .where(messages.c.conversation_id == bindparam("conversation_id"), *_owned(messages))
    .order_by(messages.c.position)
)
ANSWERS_WITHOUT_TEXTS = (
    select(*(literal_column("''").label(c.name) if c.name in TEXTS else c for c in MESSAGE_COLUMNS))
    .where(
        messages.c.conversation_id.in_(bindparam("ids", expanding=True)),
        messages.c.role == literal("assistant", literal_execute=True),
        *_owned(messages),
    )
    .order_by(messages.c.conversation_id, messages.c.position)
)
NEWEST = (
    select(messages.c.id)
    .where(messages.c.conversation_id == bindparam("conversation_id"), *_owned(messages))
    .order_by(messages.c.position.desc())
    .limit(literal(1, literal_execute=True))
)
MESSAGES_BY_ID = select(*MESSAGE_COLUMNS).where(
    messages.c.id.in_(bindparam("ids", expanding=True)), *_owned(messages)
)
ADD_MESSAGES = insert(messages)
CHANGE_MESSAGE = update(messages).where(messages.c.id == bindparam("row_id"), *_owned(messages))
REMOVE_MESSAGES = delete(messages).where(
    messages.c.conversation_id.in_(bindparam("ids", expanding=True)), *_owned(messages)
)

# Walks from a message to its ancestors; `left` limits the number of rows.
_step = select(
    messages.c.id, messages.c.parent_id, bindparam("most", type_=Integer).label("left")
).where(messages.c.id == bindparam("row_id"), *_owned(messages))
_steps = _step.cte("step", recursive=True)
_steps = _steps.union_all(
    select(messages.c.id, messages.c.parent_id, _steps.c.left - 1).where(
        messages.c.id == _steps.c.parent_id, _steps.c.left > 1, *_owned(messages)
    )
)
PATH = (
    select(*CONTEXT_COLUMNS)
    .join(_steps, _steps.c.id == messages.c.id)
    .order_by(messages.c.position)
)

TURN = select(turns).where(turns.c.request_id == bindparam("key"), *_owned(turns))
ADD_TURN = insert(turns)
REMOVE_TURNS = delete(turns).where(
    turns.c.conversation_id.in_(bindparam("ids", expanding=True)), *_owned(turns)
)

ADD_RECORDS = insert(outbox)
# The outbox has no owner columns: run only after the owner of the conversations was checked.
REMOVE_TURN_RECORDS = delete(outbox).where(
    outbox.c.conversation_id.in_(bindparam("ids", expanding=True)), outbox.c.erased.is_(False)
)
WAITING_RECORDS = (
    select(outbox.c.id, outbox.c.payload)
    .where(outbox.c.refused.is_(False))
    .order_by(outbox.c.id)
    .limit(bindparam("size"))
)
COUNT_RECORDS = select(func.count()).where(outbox.c.refused.is_(False))
REMOVE_RELAYED = delete(outbox).where(outbox.c.id.in_(bindparam("ids", expanding=True)))
REFUSE_RECORD = update(outbox).where(outbox.c.id == bindparam("row_id")).values(refused=True)

LEASE = select(relay_lease.c.holder, relay_lease.c.term).with_for_update()
TAKE_LEASE = update(relay_lease).values(holder=bindparam("by"), term=relay_lease.c.term + 1)
RELEASE_LEASE = update(relay_lease).where(relay_lease.c.holder == bindparam("by")).values(holder="")
