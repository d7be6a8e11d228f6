"""Tables of the first release, created there without Alembic; existing tables are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the missing tables."""
    _make(
        "partitions",
        *_place(),
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
    )
    _make(
        "segments",
        *_place(),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("start_offset", sa.BigInteger, nullable=False),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
        sa.Column("object_key", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("dead_letters", sa.BigInteger, nullable=False),
        sa.Column("tombstones", sa.BigInteger, nullable=False),
        sa.Column("commit_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("topic_id", "partition", "start_offset"),
        sa.UniqueConstraint("stream", "partition", "sequence"),
    )
    _make(
        "dead_letters",
        *_place(),
        sa.Column("offset", sa.BigInteger, primary_key=True),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("payload_base64", sa.Text, nullable=False),
    )
    _make(
        "event_ids",
        sa.Column("stream", sa.String(32), primary_key=True),
        sa.Column("event_id", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
    )
    _make(
        "thumbs",
        sa.Column("principal", sa.String(64), primary_key=True),
        sa.Column("message_id", sa.String(36), primary_key=True),
        sa.Column("up", sa.Boolean, nullable=False),
        sa.Column("model_version", sa.String(128), nullable=False),
        sa.Column("arm", sa.String(128), nullable=False),
        sa.Column("accept_us", sa.BigInteger, nullable=False),
    )
    op.create_index("thumbs_by_time", "thumbs", ["accept_us"], if_not_exists=True)
    _make("thumb_positions", *_place(), sa.Column("end_offset", sa.BigInteger, nullable=False))


def _make(name: str, *parts: sa.schema.SchemaItem) -> None:
    op.create_table(name, *parts, if_not_exists=True)


def _place() -> list[sa.Column[object]]:
    return [
        sa.Column("topic_id", sa.String(36), primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True),
    ]
