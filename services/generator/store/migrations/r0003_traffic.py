"""Create the table with the counts of generations by version."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table generator_traffic."""
    op.create_table(
        "generator_traffic",
        sa.Column("version", sa.String(128), primary_key=True),
        sa.Column("since_us", sa.BigInteger, primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("bin", sa.Integer, primary_key=True),
        sa.Column("count", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
