"""Progress of the removal of retracted answers from each stream's objects.

At 0 the next pass reads all objects.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns; compactors of the previous version do not change them."""
    for name in ("taken_back_sequence", "taken_back_epoch"):
        op.add_column(
            "compactors", sa.Column(name, sa.BigInteger, nullable=False, server_default="0")
        )
