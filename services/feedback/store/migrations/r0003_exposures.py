"""Exposures of users to versions.

Both tables start empty; the next start fills them from the committed objects.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table and its positions."""
    op.create_table(
        "exposures",
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("model_version", sa.String(128), nullable=False),
        sa.Column("arm", sa.String(128), nullable=False),
        sa.Column("first_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("principal", "model_version", "arm", name="exposures_by_principal"),
    )
    op.create_index("exposures_by_version", "exposures", ["model_version", "arm", "first_us"])
    op.create_table(
        "exposure_positions",
        sa.Column("topic_id", sa.String(36), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
    )
