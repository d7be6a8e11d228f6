"""Finished answers of versions.

Both tables start empty; the next start fills them from the committed objects. They exist if a
rollback has set the revision back; the positions then differ from the ledger, and the table is
rebuilt.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create the table and its positions."""
    if sa.inspect(op.get_bind()).has_table("answers"):
        return
    op.create_table(
        "answers",
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("message_id", sa.String(36), nullable=False),
        sa.Column("model_version", sa.String(128), nullable=False),
        sa.Column("arm", sa.String(128), nullable=False),
        sa.Column("refused", sa.Boolean, nullable=False),
        sa.Column("begin_us", sa.BigInteger, nullable=False),
        sa.Column("finish_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("principal", "message_id", name="answers_by_principal"),
    )
    op.create_index("answers_by_version", "answers", ["model_version", "begin_us"])
    op.create_index("answers_by_time", "answers", ["finish_us"])
    op.create_table(
        "answer_positions",
        sa.Column("topic_id", sa.String(36), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
    )
