"""First schema: battles, votes, accounts, the outbox of events, and the audit log."""

import sqlalchemy as sa
from alembic import op

from services.chassis.audit.table import create

revision, down_revision = "0001", None


def upgrade() -> None:
    """Create all tables of the first schema."""
    op.create_table(
        "battles",
        sa.Column("battle_id", sa.String(36), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("first_model", sa.String(128), nullable=False),
        sa.Column("second_model", sa.String(128), nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("principal", "request_id", name="battles_by_request"),
        sa.Index("battles_by_time", "principal", "create_us"),
    )
    _votes()
    op.create_table(
        "review_accounts",
        sa.Column("principal", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("quarantined", sa.Boolean, nullable=False),
    )
    op.create_table(
        "review_outbox",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("principal", sa.String(64), nullable=False, index=True),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("create_us", sa.BigInteger, nullable=False),
        sa.Column("attempt_us", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    create(op.get_bind(), "review")


def _votes() -> None:
    op.create_table(
        "battle_votes",
        _battle_id(primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("first_message_id", sa.String(36), nullable=False),
        sa.Column("second_message_id", sa.String(36), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("set_aside", sa.String(16), nullable=False),
        sa.Column("task", sa.String(32), nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("answers_us", sa.BigInteger, nullable=False),
        sa.Column("vote_us", sa.BigInteger, nullable=False),
        sa.Index("battle_votes_of_tenant", "tenant", "vote_us"),
        sa.Index("battle_votes_of_principal", "principal", "vote_us"),
    )
    op.create_table(
        "battle_answers",
        sa.Column("message_id", sa.String(36), primary_key=True),
        _battle_id(index=True),
    )


def _battle_id(*, primary_key: bool = False, index: bool = False) -> sa.Column[str]:
    battle = sa.ForeignKey("battles.battle_id", ondelete="CASCADE")
    kind = sa.String(36)
    return sa.Column(
        "battle_id", kind, battle, primary_key=primary_key, nullable=False, index=index
    )
