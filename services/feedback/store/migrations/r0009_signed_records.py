"""Time since which the records of a stream are signed.

0 for a new installation, so that its sinks accept no record without a signature. The column exists
if a rollback has set the revision back; the time is then that of the new upgrade, because the
earlier version wrote records without signatures.
"""

import time

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column and set the time of this upgrade for each stream that a sink has read.

    A stream without a segment may have records in its topic; the sink has then taken a partition.
    """
    column = sa.Column("signed_since_us", sa.BigInteger, nullable=False, server_default="0")
    # SQLite has no ADD COLUMN IF NOT EXISTS.
    existing = {found["name"] for found in sa.inspect(op.get_bind()).get_columns("streams")}
    if column.name not in existing:
        op.add_column("streams", column)
    op.execute(
        "INSERT INTO streams (stream, sequence, plain_sequence) "
        "SELECT DISTINCT stream, 0, 0 FROM partitions WHERE true ON CONFLICT (stream) DO NOTHING"
    )
    streams = sa.table("streams", sa.column("signed_since_us", sa.BigInteger))
    op.execute(streams.update().values(signed_since_us=time.time_ns() // 1_000))
