"""Register of write-ahead logs; the table starts empty and is filled by running replicas.

The table exists if a rollback has set the revision back.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table of write-ahead logs."""
    op.create_table(
        "spools",
        sa.Column("topic_id", sa.String(36), primary_key=True),
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("directory", sa.Text, nullable=False),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
        sa.Column("waiting", sa.BigInteger, nullable=False),
        sa.Column("report_us", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
