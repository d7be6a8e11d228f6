"""Tables of the sessions database after the newest migration, and the statements on them.

Every row of a user stores its owner, so that no query needs a join to check the owner. All
statements on rows of users filter by `owner_tenant` and `owner_user`, so that a row of another user
is not found. Updates take the changed columns as parameters. Statements are built once, since
building a statement takes as long as running it.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    delete,
    false,
    func,
    insert,
    literal,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.sql.elements import ColumnElement

metadata = MetaData()

conversations = Table(
    "conversations",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("create_us", BigInteger, nullable=False),
    Column("update_us", BigInteger, nullable=False),
    Column("next_position", Integer, nullable=False),
    Column("client_keeps_conversation", Boolean, nullable=False, server_default=false()),
    Index("conversations_by_use", "tenant", "user", "update_us", "id"),
)
# Clients that keep their conversations begin one in each turn; these do not count.
_counted = conversations.c.client_keeps_conversation.is_(False)
Index(
    "conversations_that_count",
    conversations.c.tenant,
    conversations.c.user,
    sqlite_where=_counted,
    postgresql_where=_counted,
)

# `position` counts within a conversation and does not depend on clocks: the newest message is
# always a leaf.
messages = Table(
    "messages",
    metadata,
    Column("id", String(36), primary_key=True),
    Column(
        "conversation_id",
        String(36),
        ForeignKey("conversations.id", ondelete="CASCADE"),
        nullable=False,
    ),
    Column("position", Integer, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("parent_id", String(36), nullable=False),
    Column("role", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("original_text", Text, nullable=False),
    Column("edits", Text, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("task", String(32), nullable=False),
    Column("context_ids", Text, nullable=False),
    Column("model_version", String(128), nullable=False),
    Column("arm", String(16), nullable=False),
    Column("finish_reason", String(32), nullable=False),
    Column("create_us", BigInteger, nullable=False),
    Column("depth", Integer, nullable=False, server_default="-1"),
    Column("pinned_ids", Text, nullable=False, server_default=""),
    # Verdict of the guard on a blocked answer.
    Column("guard_category", String(128), nullable=False, server_default=""),
    Column("guard_score", Float, nullable=False, server_default="0"),
    Column("policy_version", String(128), nullable=False, server_default=""),
    UniqueConstraint("conversation_id", "position"),
)

# One row per idempotency key, removed with its conversation.
turns = Table(
    "turns",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("user", Text, primary_key=True),
    Column("request_id", String(64), primary_key=True),
    Column(
        "conversation_id",
        String(36),
        ForeignKey("conversations.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("payload_sha256", String(64), nullable=False),
    Column("user_message_id", String(36), nullable=False),
    Column("assistant_message_id", String(36), nullable=False),
    Column("context_tokens", Integer, nullable=False),
    Column("dropped_messages", Integer, nullable=False),
)

# Turn records and (`erased`) erasure records until the feedback service acknowledges them. Without
# a foreign key, because an erasure record outlives its conversation.
outbox = Table(
    "outbox",
    metadata,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("conversation_id", String(36), nullable=False, index=True),
    Column("refused", Boolean, nullable=False),
    Column("erased", Boolean, nullable=False, server_default=false()),
    Column("payload", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

# One row with the replica that relays the outbox; each renewal increments `term`.
relay_lease = Table(
    "relay_lease",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("holder", String(36), nullable=False),
    Column("term", BigInteger, nullable=False),
)


def _owned(table: Table) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return table.c.tenant == bindparam("owner_tenant"), table.c.user == bindparam("owner_user")


# In the order of the fields of `message.Message`, as `store.context_message_from` expects.
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
    messages.c.guard_category,
    messages.c.guard_score,
    messages.c.policy_version,
)

TEXTS = {"text", "original_text", "edits", "context_ids", "pinned_ids"}

# The fields of `message.Conversation`.
CONVERSATION_COLUMNS = (
    conversations.c.id,
    conversations.c.title,
    conversations.c.create_us,
    conversations.c.update_us,
    conversations.c.next_position,
    conversations.c.client_keeps_conversation,
)
# A change of a conversation locks its row first, and reads afterwards.
CONVERSATION = select(*CONVERSATION_COLUMNS).where(
    conversations.c.id == bindparam("row_id"), *_owned(conversations)
)
LOCKED_CONVERSATION = CONVERSATION.with_for_update()
LOCKED_CONVERSATION_OF_MESSAGE = (
    select(*CONVERSATION_COLUMNS)
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
    select(*CONVERSATION_COLUMNS)
    .where(*_owned(conversations))
    .order_by(conversations.c.id)
    .limit(bindparam("size"))
    .with_for_update()
)
FIRST_PAGE = (
    select(*CONVERSATION_COLUMNS)
    .where(*_owned(conversations))
    .order_by(conversations.c.update_us.desc(), conversations.c.id.desc())
    .limit(bindparam("size"))
)
NEXT_PAGE = FIRST_PAGE.where(
    tuple_(conversations.c.update_us, conversations.c.id)
    < tuple_(bindparam("after_us"), bindparam("after_id"))
)
# Both read only the index `conversations_that_count`, up to a limit.
COUNT_CONVERSATIONS = select(func.count()).select_from(
    select(conversations.c.tenant)
    .where(_counted, *_owned(conversations))
    .limit(bindparam("most", type_=Integer))
    .subquery()
)
COUNT_TENANT_CONVERSATIONS = select(func.count()).select_from(
    select(conversations.c.tenant)
    .where(_counted, conversations.c.tenant == bindparam("owner_tenant"))
    .limit(bindparam("most", type_=Integer))
    .subquery()
)
# Postgres only. Locks with two keys do not collide with those with one, which migrations use.
LOCK_OWNER = select(
    func.pg_advisory_xact_lock(
        func.hashtext(bindparam("owner_tenant")), func.hashtext(bindparam("owner_user"))
    )
)
ADD_CONVERSATION = insert(conversations)
CHANGE_CONVERSATION = update(conversations).where(
    conversations.c.id == bindparam("row_id"), *_owned(conversations)
)
REMOVE_CONVERSATIONS = delete(conversations).where(
    conversations.c.id.in_(bindparam("ids", expanding=True)), *_owned(conversations)
)

MESSAGE = select(*MESSAGE_COLUMNS).where(messages.c.id == bindparam("row_id"), *_owned(messages))
IS_EDITED = select(messages.c.edits != "").where(
    messages.c.id == bindparam("row_id"), *_owned(messages)
)
MESSAGES_BEFORE = (
    select(*MESSAGE_COLUMNS)
    .where(
        messages.c.conversation_id == bindparam("conversation_id"),
        messages.c.position < bindparam("before"),
        *_owned(messages),
    )
    .order_by(messages.c.position.desc())
    .limit(bindparam("size"))
)
ANSWERS_WITHOUT_TEXTS = (
    select(*(literal_column("''").label(c.name) if c.name in TEXTS else c for c in MESSAGE_COLUMNS))
    .where(
        messages.c.conversation_id.in_(bindparam("ids", expanding=True)),
        tuple_(messages.c.conversation_id, messages.c.position)
        > tuple_(bindparam("after_id"), bindparam("after_position")),
        messages.c.role == literal("assistant", literal_execute=True),
        *_owned(messages),
    )
    .order_by(messages.c.conversation_id, messages.c.position)
    .limit(bindparam("size"))
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

# The fields of `message.StoredTurn`.
TURN_COLUMNS = (
    turns.c.payload_sha256,
    turns.c.conversation_id,
    turns.c.user_message_id,
    turns.c.assistant_message_id,
    turns.c.context_tokens,
    turns.c.dropped_messages,
)
TURN = select(*TURN_COLUMNS).where(turns.c.request_id == bindparam("key"), *_owned(turns))
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
REFUSED_RECORDS = (
    select(outbox.c.id, outbox.c.erased).where(outbox.c.refused.is_(True)).order_by(outbox.c.id)
)
PUBLISH_REFUSED = update(outbox).where(outbox.c.refused.is_(True)).values(refused=False)
REFUSE_RECORD = update(outbox).where(outbox.c.id == bindparam("row_id")).values(refused=True)

LEASE = select(relay_lease.c.holder, relay_lease.c.term).with_for_update()
TAKE_LEASE = update(relay_lease).values(holder=bindparam("by"), term=relay_lease.c.term + 1)
RELEASE_LEASE = update(relay_lease).where(relay_lease.c.holder == bindparam("by")).values(holder="")
