"""Conversations kept by their clients, without effect on limits."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column with a default, and an index of the counted conversations."""
    op.add_column(
        "conversations",
        sa.Column(
            "client_keeps_conversation", sa.Boolean, nullable=False, server_default=sa.false()
        ),
    )
    counted = sa.column("client_keeps_conversation", sa.Boolean).is_(False)
    op.create_index(
        "conversations_that_count",
        "conversations",
        ["tenant", "user"],
        sqlite_where=counted,
        postgresql_where=counted,
    )
