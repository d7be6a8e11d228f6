"""The tables of the feedback database: the ledger, and what is kept in step with it in the same
transaction.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# One row a partition: where its ledger ends, and who may write.
partitions = Table(
    "partitions",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("stream", String(32), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
)

# The last sequence of each stream. A commit takes this row first, so the commits of a stream go one
# after another over all partitions, and no reader ever sees a sequence before the one below it.
streams = Table(
    "streams",
    metadata,
    Column("stream", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    # The last segment that holds plain texts: 0 where all was sealed from the first day.
    Column("plain_sequence", BigInteger, nullable=False, server_default="0"),
)

# The sequence goes on over topic ids too, so that readers can go on after a log was made anew.
segments = Table(
    "segments",
    metadata,
    Column("stream", String(32), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("topic_id", String(36), nullable=False),
    Column("partition", Integer, nullable=False),
    Column("start_offset", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("object_key", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("dead_letters", BigInteger, nullable=False),
    Column("tombstones", BigInteger, nullable=False),
    Column("commit_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("stream", "sequence", name="segments_by_sequence"),
    UniqueConstraint("topic_id", "partition", "start_offset", name="segments_by_start"),
)

# What compaction made of a run of segments, which stay in their table and account for the offsets.
# Readers are given the cover in their place. Covers never overlap: a new one takes the place of
# those that lie inside it.
covers = Table(
    "covers",
    metadata,
    Column("stream", String(32), nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("object_key", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("dead_letters", BigInteger, nullable=False),
    # Rows of the segments that were left out; with `rows` they are all.
    Column("duplicates", BigInteger, nullable=False),
    Column("erased", BigInteger, nullable=False),
    Column("expired", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),  # of the rows before encoding
    Column("oldest_us", BigInteger),  # what expires first; null without rows
    Column("commit_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("stream", "last_sequence", name="covers_by_sequence"),
)

# Objects that covers have taken the place of. They stay a while for those who have listed them
# already.
retired_objects = Table(
    "retired_objects",
    metadata,
    Column("object_key", Text, primary_key=True),
    Column("stream", String(32), nullable=False),
    Column("retire_us", BigInteger, nullable=False),
)

# Who compacts a stream: whoever has the newest epoch. The times are the database's.
compactors = Table(
    "compactors",
    metadata,
    Column("stream", String(32), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("lease_us", BigInteger, nullable=False),  # until when nobody else takes over; 0: free
    Column("pass_us", BigInteger),  # when the last whole pass ended
    # Up to which sequence of the turns what they take back is out of this stream's objects; of the
    # epoch that says so. Where that is not the newest, a version that knows nothing of it has
    # compacted since.
    Column("taken_back_sequence", BigInteger, nullable=False, server_default="0"),
    Column("taken_back_epoch", BigInteger, nullable=False, server_default="0"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("error", Text, nullable=False),
    # Empty after a while: what nobody could read may hold what somebody wrote.
    Column("payload_base64", Text, nullable=False),
    Column("commit_us", BigInteger, nullable=False, server_default="0"),
)

event_ids = Table(
    "event_ids",
    metadata,
    Column("stream", String(32), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
)

# The last opinion of a user on a message: a thumb, or nothing (`up` is null) after a retraction.
# The row stays, so that an older thumb that arrives later does not stand again.
thumbs = Table(
    "thumbs",
    metadata,
    Column("principal", String(64), nullable=False),
    Column("message_id", String(36), nullable=False),
    Column("up", Boolean),
    Column("model_version", String(128), nullable=False),
    Column("arm", String(128), nullable=False),
    Column("accept_us", BigInteger, nullable=False),
    Column("accept_order", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("principal", "message_id", name="thumbs_by_principal"),
    Index("thumbs_by_time", "accept_us"),
)

# How far the thumbs reach into each log; where that is not the ledger's end they are rebuilt.
thumb_positions = Table(
    "thumb_positions",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("end_offset", BigInteger, nullable=False),
)

# The last words of a user on a message, by subject: with a thumb, or a correction. Sealed as in the
# log; empty where the last event had none. As of thumbs, the row stays.
remarks = Table(
    "remarks",
    metadata,
    Column("principal", String(64), nullable=False),
    Column("message_id", String(36), nullable=False),
    Column("subject", String(16), nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("accept_us", BigInteger, nullable=False),
    Column("accept_order", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("principal", "message_id", "subject", name="remarks_by_principal"),
    Index("remarks_by_time", "accept_us"),
)

# How far the remarks reach into each log.
remark_positions = Table(
    "remark_positions",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("end_offset", BigInteger, nullable=False),
)

# The first turn of a user with a version under an arm, whichever log it came by.
exposures = Table(
    "exposures",
    metadata,
    Column("principal", String(64), nullable=False),
    Column("model_version", String(128), nullable=False),
    Column("arm", String(128), nullable=False),
    Column("first_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("principal", "model_version", "arm", name="exposures_by_principal"),
    Index("exposures_by_version", "model_version", "arm", "first_us"),
)

# How far the exposures reach into each log.
exposure_positions = Table(
    "exposure_positions",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("end_offset", BigInteger, nullable=False),
)

# Events on their way from an acceptance to the ledger, in the order of acceptance over all replicas
# (Postgres only: see claims.py). The columns from `principal` on are filled for thumbs and their
# retractions.
accept_orders = Sequence("feedback_accept_order", metadata=metadata)
claims = Table(
    "claims",
    metadata,
    Column("stream", String(32), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("accept_order", BigInteger, nullable=False),
    Column("holders", Integer, nullable=False),  # how often it was claimed: 1 may be released
    Column("claim_us", BigInteger, nullable=False),
    Column("principal", String(64)),
    Column("message_id", String(36)),
    Column("up", Boolean),
    Column("model_version", String(128)),
    Column("arm", String(128)),
    Column("accept_us", BigInteger),
    Index("claims_by_principal", "principal", "message_id"),
    Index("claims_by_age", "claim_us"),
)

# One key a principal, wrapped (master_key.py). Deleting the row makes unreadable what the principal
# said.
data_keys = Table(
    "data_keys",
    metadata,
    Column("principal", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("key_id", LargeBinary(16), nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("create_us", BigInteger, nullable=False),
)

# What principals said about training; of the others the operator's default stands.
consents = Table(
    "consents",
    metadata,
    Column("principal", String(64), primary_key=True),
    Column("training", Boolean, nullable=False),
    Column("update_us", BigInteger, nullable=False),
)

# The erasure ledger. `key_id` is that of the shredded key, null if there was none; `rewrite_us` is
# null until no object holds sealed rows of it any more.
erasures = Table(
    "erasures",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("erasure_id", String(36), nullable=False),
    Column("principal", String(64), nullable=False),
    Column("tenant", String(128), nullable=False),
    Column("key_id", LargeBinary(16)),
    Column("request_us", BigInteger, nullable=False),
    Column("shred_us", BigInteger, nullable=False),
    Column("rewrite_us", BigInteger),
    Index("erasures_by_id", "erasure_id", unique=True),
    Index("erasures_by_principal", "principal"),
    Index("erasures_by_key", "key_id"),
)

# How far an erasure reaches into each stream: the stream's last sequence at that moment, and when
# its objects were free of it.
erasure_reaches = Table(
    "erasure_reaches",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("stream", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("rewrite_us", BigInteger),
)
