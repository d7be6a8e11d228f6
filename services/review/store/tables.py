"""Tables of the review database after the newest migration.

Users are stored by their principal. Only the outbox has a user's name, until the event of the vote
is acknowledged, because the call to the feedback service is made for that user.
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
    false,
)

from services.chassis.audit.table import audit_table

METADATA = MetaData()

# Counts of the style features of the first and of the second answer, in the order of
# `human_evaluation.style.STYLE_FEATURES`.
STYLE_COLUMNS = tuple(
    f"{side}_{feature}"
    for side in ("first", "second")
    for feature in ("length", "headers", "bold", "lists")
)

battles = Table(
    "battles",
    METADATA,
    Column("battle_id", String(36), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("principal", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("first_model", String(128), nullable=False),
    Column("second_model", String(128), nullable=False),
    Column("create_us", BigInteger, nullable=False),
    UniqueConstraint("principal", "request_id", name="battles_by_request"),
    Index("battles_by_time", "principal", "create_us"),
)

battle_votes = Table(
    "battle_votes",
    METADATA,
    Column(
        "battle_id",
        String(36),
        ForeignKey("battles.battle_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("tenant", Text, nullable=False),
    Column("principal", String(64), nullable=False),
    Column("first_message_id", String(36), nullable=False),
    Column("second_message_id", String(36), nullable=False),
    Column("outcome", String(16), nullable=False),
    # "" for a vote that counts.
    Column("set_aside", String(16), nullable=False),
    Column("task", String(32), nullable=False),
    Column("weight", Float, nullable=False),
    Column("answers_us", BigInteger, nullable=False),
    Column("vote_us", BigInteger, nullable=False),
    *(Column(name, Integer, nullable=False, server_default="0") for name in STYLE_COLUMNS),
    Index("battle_votes_of_tenant", "tenant", "vote_us"),
    Index("battle_votes_of_principal", "principal", "vote_us"),
)

# Answers with a vote; the key permits an answer in one battle only.
battle_answers = Table(
    "battle_answers",
    METADATA,
    Column("message_id", String(36), primary_key=True),
    Column(
        "battle_id",
        String(36),
        ForeignKey("battles.battle_id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
)

# Accounts that have voted. Votes of a quarantined account do not count, and their events wait. A
# released account is not quarantined again by the search for arranged votes.
accounts = Table(
    "review_accounts",
    METADATA,
    Column("principal", String(64), primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("create_us", BigInteger, nullable=False),
    Column("weight", Float, nullable=False),
    Column("quarantined", Boolean, nullable=False),
    Column("released", Boolean, nullable=False, server_default=false()),
)

outbox = Table(
    "review_outbox",
    METADATA,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("tenant", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("principal", String(64), nullable=False, index=True),
    Column("payload", LargeBinary, nullable=False),
    Column("create_us", BigInteger, nullable=False),
    # Time of the next attempt.
    Column("attempt_us", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

# A single row: number of the last applied entry of feedback's list of erasures.
applied_erasures = Table(
    "review_erasures",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

AUDIT = audit_table(METADATA, "review")
