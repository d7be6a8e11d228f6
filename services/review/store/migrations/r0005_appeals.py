"""Rules of items, by which appeals are counted."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """Add the column; items of the previous version are no appeals."""
    op.add_column(
        "review_items", sa.Column("rule", sa.String(16), nullable=False, server_default="")
    )
    op.create_index("review_items_by_rule", "review_items", ["rule", "tenant", "create_us"])
