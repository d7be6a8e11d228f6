"""The tables of the feedback database: the ledger, and what is kept in step with it in the same transaction."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# One row a partition: where its ledger ends, and who may write. Every commit goes through this row.
partitions = Table(
    "partitions",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("stream", String(32), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
)

# The sequence goes on over topic ids of one stream, so that readers can go on after a log was made anew.
segments = Table(
    "segments",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("stream", String(32), nullable=False),
    Column("start_offset", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("object_key", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("dead_letters", BigInteger, nullable=False),
    Column("tombstones", BigInteger, nullable=False),
    Column("commit_us", BigInteger, nullable=False),
    UniqueConstraint("topic_id", "partition", "start_offset"),
    UniqueConstraint("stream", "partition", "sequence"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("error", Text, nullable=False),
    Column("payload_base64", Text, nullable=False),
)

event_ids = Table(
    "event_ids",
    metadata,
    Column("stream", String(32), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
)

thumbs = Table(
    "thumbs",
    metadata,
    Column("principal", String(64), primary_key=True),
    Column("message_id", String(36), primary_key=True),
    Column("up", Boolean, nullable=False),
    Column("model_version", String(128), nullable=False),
    Column("arm", String(128), nullable=False),
    Column("accept_us", BigInteger, nullable=False),
    Index("thumbs_by_time", "accept_us"),
)

# How far the thumbs reach into the log; behind the ledger they are rebuilt.
thumb_positions = Table(
    "thumb_positions",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("end_offset", BigInteger, nullable=False),
)
