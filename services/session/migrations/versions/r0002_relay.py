"""What several replicas need to relay: one row that says which of them does; and erasures are told
from turns in the outbox.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """The lease is free. What waits in the outbox counts as turns."""
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
