"""Relay by one of several replicas: a lease row, and a mark of erasure records in the outbox."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add a free lease and the column `erased`; waiting records count as turn records."""
    op.add_column(
        "outbox", sa.Column("erased", sa.Boolean, nullable=False, server_default=sa.false())
    )
    lease = op.create_table(
        "relay_lease",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("holder", sa.String(36), nullable=False),
        sa.Column("term", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(lease, [{"id": 1, "holder": "", "term": 0}])
