"""Implicit signals: columns of `answers`, and signals that clients report.

The next start rebuilds `answers` and fills `signals`. The columns exist if a rollback has set the
revision back.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Add the columns and create the table with its positions."""
    inspector = sa.inspect(op.get_bind())
    if not inspector.has_table("signals"):
        _add()
    # Rows of 0011 lack the values of the new columns.
    for name in ("answers", "answer_positions"):
        op.execute(sa.table(name).delete())


def _add() -> None:
    for name in ("conversation_id", "user_message_id"):
        op.add_column("answers", sa.Column(name, sa.String(36), nullable=False, server_default=""))
    op.add_column("answers", sa.Column("parent_message_id", sa.String(36)))
    for name in ("stopped", "asked_again", "edited"):
        op.add_column(
            "answers", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false())
        )
    op.create_index(
        "answers_by_parent", "answers", ["principal", "conversation_id", "parent_message_id"]
    )
    op.create_table(
        "signals",
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("message_id", sa.String(36), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("accept_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("principal", "message_id", "kind", name="signals_by_principal"),
    )
    op.create_index("signals_by_time", "signals", ["accept_us"])
    op.create_table(
        "signal_positions",
        sa.Column("topic_id", sa.String(36), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
    )
