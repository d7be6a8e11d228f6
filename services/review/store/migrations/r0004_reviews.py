"""Items to judge with their reviews, and erased users, whose earlier items are not added."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Create the tables; the new column has a default for rows of the previous version."""
    op.add_column(
        "review_outbox",
        sa.Column("owner", sa.String(64), nullable=False, server_default=""),
    )
    op.create_index("ix_review_outbox_owner", "review_outbox", ["owner"])
    op.create_table(
        "review_erased_principals",
        sa.Column("principal", sa.String(64), primary_key=True),
        sa.Column("erase_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "review_items",
        sa.Column("item_id", sa.String(36), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("principal", sa.String(64), nullable=False, index=True),
        sa.Column("message_us", sa.BigInteger, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("difference", sa.Integer, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
        sa.Index("review_items_of_tenant", "tenant", "state", "create_us"),
        sa.Index("review_items_by_time", "create_us", "item_id"),
    )
    op.create_table(
        "review_reviews",
        _item_id(primary_key=True),
        sa.Column("rater", sa.String(64), primary_key=True, index=True),
        sa.Column("user", sa.Text, nullable=False),
        *_judgement(),
    )
    op.create_table(
        "review_resolutions",
        _item_id(primary_key=True),
        sa.Column("rater", sa.String(64), nullable=False, index=True),
        *_judgement(),
    )
    op.create_table(
        "review_leases",
        sa.Column("rater", sa.String(64), primary_key=True),
        _item_id(index=True),
        sa.Column("expire_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "review_skips",
        _item_id(primary_key=True),
        sa.Column("rater", sa.String(64), primary_key=True, index=True),
    )


def _judgement() -> tuple[sa.Column[str] | sa.Column[int], ...]:
    return (
        sa.Column("opinion", sa.Text, nullable=False),
        sa.Column("written_answer", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("submit_us", sa.BigInteger, nullable=False),
    )


def _item_id(*, primary_key: bool = False, index: bool = False) -> sa.Column[str]:
    item = sa.ForeignKey("review_items.item_id", ondelete="CASCADE")
    kind = sa.String(36)
    return sa.Column("item_id", kind, item, primary_key=primary_key, nullable=False, index=index)
