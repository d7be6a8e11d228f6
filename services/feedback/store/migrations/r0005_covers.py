"""Compaction: compacted segments, replaced objects, and compactors.

All tables start empty, and segments stay unchanged.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the three tables."""
    op.create_table(
        "covers",
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("first_sequence", sa.BigInteger, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.Column("object_key", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("dead_letters", sa.BigInteger, nullable=False),
        sa.Column("duplicates", sa.BigInteger, nullable=False),
        sa.Column("erased", sa.BigInteger, nullable=False),
        sa.Column("expired", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("oldest_us", sa.BigInteger),
        sa.Column("commit_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", "last_sequence", name="covers_by_sequence"),
    )
    op.create_table(
        "retired_objects",
        sa.Column("object_key", sa.Text, primary_key=True),
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("retire_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "compactors",
        sa.Column("stream", sa.String(32), primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("lease_us", sa.BigInteger, nullable=False),
        sa.Column("pass_us", sa.BigInteger),
    )
