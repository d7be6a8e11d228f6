"""Answers that were taken back: how far each stream's objects are free of them. At 0, the next pass
looks through all.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns; a compactor of the version before leaves them as they are."""
    for name in ("taken_back_sequence", "taken_back_epoch"):
        op.add_column(
            "compactors", sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
        )
