"""A message knows how deep in its branch it is, and which messages above it every context keeps.
Rows from before: depth -1.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """With defaults, for the rows that are there and for those that the version before writes
    meanwhile.
    """
    op.add_column("messages", sa.Column("depth", sa.Integer, nullable=False, server_default="-1"))
    op.add_column("messages", sa.Column("pinned_ids", sa.Text, nullable=False, server_default=""))
