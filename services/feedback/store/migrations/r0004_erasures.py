"""Keys, consents and erasures.

Existing segments count as plain, since they were written before sealing existed.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the tables; dead letters get the commit time of their segment, for expiry."""
    op.add_column(
        "streams", sa.Column("plain_sequence", sa.BigInteger, nullable=False, server_default="0")
    )
    op.execute("UPDATE streams SET plain_sequence = sequence")
    op.add_column(
        "dead_letters", sa.Column("commit_us", sa.BigInteger, nullable=False, server_default="0")
    )
    op.execute("""
        UPDATE dead_letters SET commit_us = coalesce((
            SELECT segments.commit_us FROM segments
            WHERE segments.topic_id = dead_letters.topic_id
              AND segments.partition = dead_letters.partition
              AND segments.start_offset <= dead_letters."offset"
              AND dead_letters."offset" < segments.end_offset), 0)
    """)
    op.create_table(
        "data_keys",
        sa.Column("principal", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("key_id", sa.LargeBinary(16), nullable=False),
        sa.Column("wrapped_key", sa.LargeBinary, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "consents",
        sa.Column("principal", sa.String(64), primary_key=True),
        sa.Column("training", sa.Boolean, nullable=False),
        sa.Column("update_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "erasures",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("erasure_id", sa.String(36), nullable=False),
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("key_id", sa.LargeBinary(16)),
        sa.Column("request_us", sa.BigInteger, nullable=False),
        sa.Column("shred_us", sa.BigInteger, nullable=False),
        sa.Column("rewrite_us", sa.BigInteger),
    )
    op.create_index("erasures_by_id", "erasures", ["erasure_id"], unique=True)
    op.create_index("erasures_by_principal", "erasures", ["principal"])
    op.create_index("erasures_by_key", "erasures", ["key_id"])
    op.create_table(
        "erasure_reaches",
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("stream", sa.String(32), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("rewrite_us", sa.BigInteger),
    )
