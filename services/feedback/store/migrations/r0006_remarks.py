"""Remarks of users.

The table starts without positions and is filled from the committed objects at the next start.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table and its positions."""
    op.create_table(
        "remarks",
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("message_id", sa.String(36), nullable=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("accept_us", sa.BigInteger, nullable=False),
        sa.Column("accept_order", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("principal", "message_id", "subject", name="remarks_by_principal"),
    )
    op.create_index("remarks_by_time", "remarks", ["accept_us"])
    op.create_table(
        "remark_positions",
        sa.Column("topic_id", sa.String(36), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
    )
