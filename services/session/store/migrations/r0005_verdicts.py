"""Verdicts of the guard on blocked answers, for appeals."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns with defaults, for rows of the previous version."""
    for name in ("guard_category", "policy_version"):
        op.add_column(
            "messages", sa.Column(name, sa.String(128), nullable=False, server_default="")
        )
    op.add_column(
        "messages", sa.Column("guard_score", sa.Float, nullable=False, server_default="0")
    )
