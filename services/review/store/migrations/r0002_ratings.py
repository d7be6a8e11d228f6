"""Style of the answers of a vote, and accounts that an operator has released."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Add columns with defaults, which apply also to rows that the previous version writes."""
    for side in ("first", "second"):
        for feature in ("length", "headers", "bold", "lists"):
            name = f"{side}_{feature}"
            op.add_column(
                "battle_votes", sa.Column(name, sa.Integer, nullable=False, server_default="0")
            )
    op.add_column(
        "review_accounts",
        sa.Column("released", sa.Boolean, nullable=False, server_default=sa.false()),
    )
