"""Depth of a message, and the ids of the ancestors needed in every context.

Existing rows get the depth -1.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add columns with defaults, which apply also to rows that the previous version writes."""
    op.add_column("messages", sa.Column("depth", sa.Integer, nullable=False, server_default="-1"))
    op.add_column("messages", sa.Column("pinned_ids", sa.Text, nullable=False, server_default=""))
