"""Tables of the review database after the newest migration.

Users are stored by their principal. A user's name is in the outbox, until the event of a vote or
review is acknowledged, and in reviews of items that are not complete, because the call to the
feedback service is made for that user.
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
    # User whose words a reviewer judged; "" for a vote.
    Column("owner", String(64), nullable=False, server_default="", index=True),
    sqlite_autoincrement=True,
)

# A single row: number of the last applied entry of feedback's list of erasures.
applied_erasures = Table(
    "review_erasures",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("number", BigInteger, nullable=False),
)

# Users in feedback's list of erasures, with the time of their last erasure: a draw may add items
# that were read before.
erased_principals = Table(
    "review_erased_principals",
    METADATA,
    Column("principal", String(64), primary_key=True),
    Column("erase_us", BigInteger, nullable=False),
)


def _item_id(*, primary_key: bool = False, index: bool = False) -> Column[str]:
    item = ForeignKey("review_items.item_id", ondelete="CASCADE")
    return Column("item_id", String(36), item, primary_key=primary_key, nullable=False, index=index)


items = Table(
    "review_items",
    METADATA,
    Column("item_id", String(36), primary_key=True),
    Column("tenant", Text, nullable=False),
    # User whose words the item has.
    Column("principal", String(64), nullable=False, index=True),
    # Creation of the answer, for erasures; 0 if unknown.
    Column("message_us", BigInteger, nullable=False),
    Column("rule", String(16), nullable=False, server_default=""),
    # The item as JSON; personal data are replaced, except in appeals.
    Column("content", Text, nullable=False),
    Column("state", String(16), nullable=False),
    # Largest disagreement of two reviews while the state is "disagreed".
    Column("difference", Integer, nullable=False),
    Column("create_us", BigInteger, nullable=False),
    Index("review_items_of_tenant", "tenant", "state", "create_us"),
    Index("review_items_by_time", "create_us", "item_id"),
    Index("review_items_by_rule", "rule", "tenant", "create_us"),
)

reviews = Table(
    "review_reviews",
    METADATA,
    _item_id(primary_key=True),
    Column("rater", String(64), primary_key=True, index=True),
    # Name of the reviewer until the item is complete.
    Column("user", Text, nullable=False),
    # Scores and ranks as JSON.
    Column("opinion", Text, nullable=False),
    Column("written_answer", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("submit_us", BigInteger, nullable=False),
)

resolutions = Table(
    "review_resolutions",
    METADATA,
    _item_id(primary_key=True),
    Column("rater", String(64), nullable=False, index=True),
    Column("opinion", Text, nullable=False),
    Column("written_answer", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("submit_us", BigInteger, nullable=False),
)

# The item on which a reviewer works.
leases = Table(
    "review_leases",
    METADATA,
    Column("rater", String(64), primary_key=True),
    _item_id(index=True),
    Column("expire_us", BigInteger, nullable=False),
)

# Items that a reviewer left to others.
skips = Table(
    "review_skips",
    METADATA,
    _item_id(primary_key=True),
    Column("rater", String(64), primary_key=True, index=True),
)

AUDIT = audit_table(METADATA, "review")
