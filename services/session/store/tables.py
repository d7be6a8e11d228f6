"""Tables of the sessions database after the newest migration.

Every row of a user stores its owner, so that no query needs a join to check the owner.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

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
    Index("conversations_by_use", "tenant", "user", "update_us", "id"),
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
