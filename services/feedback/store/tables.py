"""Tables of the feedback database: the ledger and its projections.

A projection changes in the same transaction as the ledger.
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
    false,
)

from services.chassis.audit.table import audit_table

metadata = MetaData()

audit = audit_table(metadata, "feedback")


def _positions(name: str) -> Table:
    """Return the table of a projection's end in each log.

    A difference from the ledger's end triggers a rebuild.
    """
    return Table(
        name,
        metadata,
        Column("topic_id", String(36), primary_key=True),
        Column("partition", Integer, primary_key=True),
        Column("end_offset", BigInteger, nullable=False),
    )


# One row per partition: end of its ledger and epoch of its writer.
partitions = Table(
    "partitions",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("stream", String(32), nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
)

# Last sequence of each stream. Each commit locks this row first. Commits of a stream are therefore
# serial across partitions, and readers see sequences without gaps.
streams = Table(
    "streams",
    metadata,
    Column("stream", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    # Last segment with plain texts; 0 if all texts have been sealed from the start.
    Column("plain_sequence", BigInteger, nullable=False, server_default="0"),
    # Time since which relays sign their records; 0: from the start of the stream. Records written
    # by relays of earlier versions may follow for a while.
    Column("signed_since_us", BigInteger, nullable=False, server_default="0"),
)

# Sequences continue across topic ids, so readers can continue after a log was recreated.
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

# Compacted segments. The original segments stay in their table and account for the offsets; readers
# get the compacted segment instead. Compacted segments never overlap: a new row replaces all rows
# inside its range.
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
    # Rows left out by reason. These and `rows` add up to all rows of the original segments.
    Column("duplicates", BigInteger, nullable=False),
    Column("erased", BigInteger, nullable=False),
    Column("expired", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),  # size of the rows before encoding
    Column("oldest_us", BigInteger),  # time of the row that expires first; null without rows
    Column("commit_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("stream", "last_sequence", name="covers_by_sequence"),
)

# Objects replaced by compaction. They stay for a while for readers with an older listing.
retired_objects = Table(
    "retired_objects",
    metadata,
    Column("object_key", Text, primary_key=True),
    Column("stream", String(32), nullable=False),
    Column("retire_us", BigInteger, nullable=False),
)

# Lease for compaction of a stream, owned by the newest epoch. Times are the database's.
compactors = Table(
    "compactors",
    metadata,
    Column("stream", String(32), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("lease_us", BigInteger, nullable=False),  # end of the lease; 0: free
    Column("pass_us", BigInteger),  # end of the last complete pass
    # Sequence of the turns stream up to which retracted answers have been removed from this
    # stream's objects, and the epoch that wrote the number. An epoch other than the newest means
    # that an older version, unaware of retracted answers, has compacted since.
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
    # Emptied after a while: undecodable bytes may contain text of a user.
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

# Last thumb of a user on a message; `up` is null after a retraction. The row stays, so that an
# older thumb arriving later cannot take effect.
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

thumb_positions = _positions("thumb_positions")

# Last texts of a user on a message by subject (thumb or correction), sealed as in the log and empty
# if the last event had no text. The row stays, as in `thumbs`.
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

remark_positions = _positions("remark_positions")

# First turn of a user with a version under an arm, across all logs.
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

exposure_positions = _positions("exposure_positions")

# Finished answers of versions, for the rates of GetVersionFeedback. There is a row for each answer,
# because a comparison may start at any time and deleted conversations are removed.
answers = Table(
    "answers",
    metadata,
    Column("principal", String(64), nullable=False),
    Column("message_id", String(36), nullable=False),
    Column("model_version", String(128), nullable=False),
    Column("arm", String(128), nullable=False),
    Column("refused", Boolean, nullable=False),  # blocked or redacted by the output guard
    Column("begin_us", BigInteger, nullable=False),
    Column("finish_us", BigInteger, nullable=False),
    Column("conversation_id", String(36), nullable=False, server_default=""),
    Column("user_message_id", String(36), nullable=False, server_default=""),
    # Null if the user did not allow training; the answer then has no implicit signals.
    Column("parent_message_id", String(36)),
    Column("stopped", Boolean, nullable=False, server_default=false()),
    Column("asked_again", Boolean, nullable=False, server_default=false()),
    Column("edited", Boolean, nullable=False, server_default=false()),
    PrimaryKeyConstraint("principal", "message_id", name="answers_by_principal"),
    Index("answers_by_version", "model_version", "begin_us"),
    Index("answers_by_time", "finish_us"),
    Index("answers_by_parent", "principal", "conversation_id", "parent_message_id"),
)

answer_positions = _positions("answer_positions")

# Signals that clients have reported on answers.
signals = Table(
    "signals",
    metadata,
    Column("principal", String(64), nullable=False),
    Column("message_id", String(36), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("accept_us", BigInteger, nullable=False),
    PrimaryKeyConstraint("principal", "message_id", "kind", name="signals_by_principal"),
    Index("signals_by_time", "accept_us"),
)

signal_positions = _positions("signal_positions")

# Events between acceptance and ledger, in the order of acceptance across replicas (Postgres only,
# see claims.py). Columns from `principal` on are filled for thumbs and retractions.
accept_orders = Sequence("feedback_accept_order", metadata=metadata)
claims = Table(
    "claims",
    metadata,
    Column("stream", String(32), primary_key=True),
    Column("event_id", String(64), primary_key=True),
    Column("fingerprint", LargeBinary(32), nullable=False),
    Column("accept_order", BigInteger, nullable=False),
    # number of claims; only a single claim may be released
    Column("holders", Integer, nullable=False),
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

# Write-ahead logs that hold, or may hold, acknowledged events (registry.py). Times are the
# database's.
spools = Table(
    "spools",
    metadata,
    Column("topic_id", String(36), primary_key=True),
    Column("stream", String(32), nullable=False),
    Column("owner", Text, nullable=False),  # host of the process; on Kubernetes the pod
    Column("directory", Text, nullable=False),
    Column("end_offset", BigInteger, nullable=False),
    Column("waiting", BigInteger, nullable=False),
    Column("report_us", BigInteger, nullable=False),
)

# One wrapped key per principal (sealing.py). Deleting the row makes all texts of the principal
# unreadable.
data_keys = Table(
    "data_keys",
    metadata,
    Column("principal", String(64), primary_key=True),
    Column("tenant", String(128), nullable=False),
    Column("key_id", LargeBinary(16), nullable=False),
    Column("wrapped_key", LargeBinary, nullable=False),
    Column("create_us", BigInteger, nullable=False),
)

# Explicit consents; without a row the operator's default applies.
consents = Table(
    "consents",
    metadata,
    Column("principal", String(64), primary_key=True),
    Column("training", Boolean, nullable=False),
    Column("update_us", BigInteger, nullable=False),
)

# Erasure ledger. `key_id` identifies the shredded key, null without a key. `rewrite_us` is null
# until all sealed rows of the key have left the objects.
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

# Range of an erasure in each stream: the stream's last sequence at the time of erasure, and the
# time when the objects were free of erased rows.
erasure_reaches = Table(
    "erasure_reaches",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("stream", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
    Column("rewrite_us", BigInteger),
)
