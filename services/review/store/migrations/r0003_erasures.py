"""Number of the last applied entry of feedback's list of erasures."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Create the table with its only row; the first run applies the whole list."""
    applied = op.create_table(
        "review_erasures",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(applied, [{"id": 1, "number": 0}])
