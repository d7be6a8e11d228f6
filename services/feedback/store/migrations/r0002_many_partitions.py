"""Several partitions and replicas: one sequence per stream, claims, order of acceptance."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Convert the tables.

    The old tables have one partition, so their sequences are already those of the stream.
    """
    op.create_table(
        "streams",
        sa.Column("stream", sa.String(32), primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.execute(
        "INSERT INTO streams (stream, sequence) "
        "SELECT stream, max(sequence) FROM segments GROUP BY stream"
    )
    _segments()
    op.drop_index("thumbs_by_time", "thumbs")
    op.rename_table("thumbs", "thumbs_before")
    op.create_table(
        "thumbs",
        sa.Column("principal", sa.String(64), nullable=False),
        sa.Column("message_id", sa.String(36), nullable=False),
        sa.Column("up", sa.Boolean),
        sa.Column("model_version", sa.String(128), nullable=False),
        sa.Column("arm", sa.String(128), nullable=False),
        sa.Column("accept_us", sa.BigInteger, nullable=False),
        sa.Column("accept_order", sa.BigInteger, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("principal", "message_id", name="thumbs_by_principal"),
    )
    _carry_over("thumbs", "principal, message_id, up, model_version, arm, accept_us")
    op.create_index("thumbs_by_time", "thumbs", ["accept_us"])
    op.create_table(
        "claims",
        sa.Column("stream", sa.String(32), primary_key=True),
        sa.Column("event_id", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("accept_order", sa.BigInteger, nullable=False),
        sa.Column("holders", sa.Integer, nullable=False),
        sa.Column("claim_us", sa.BigInteger, nullable=False),
        sa.Column("principal", sa.String(64)),
        sa.Column("message_id", sa.String(36)),
        sa.Column("up", sa.Boolean),
        sa.Column("model_version", sa.String(128)),
        sa.Column("arm", sa.String(128)),
        sa.Column("accept_us", sa.BigInteger),
    )
    op.create_index("claims_by_principal", "claims", ["principal", "message_id"])
    op.create_index("claims_by_age", "claims", ["claim_us"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(sa.schema.CreateSequence(sa.Sequence("feedback_accept_order")))


def _segments() -> None:
    op.rename_table("segments", "segments_before")
    op.create_table(
        "segments",
        sa.Column("stream", sa.String(32), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("topic_id", sa.String(36), nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("start_offset", sa.BigInteger, nullable=False),
        sa.Column("end_offset", sa.BigInteger, nullable=False),
        sa.Column("object_key", sa.Text, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("dead_letters", sa.BigInteger, nullable=False),
        sa.Column("tombstones", sa.BigInteger, nullable=False),
        sa.Column("commit_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("stream", "sequence", name="segments_by_sequence"),
        sa.UniqueConstraint("topic_id", "partition", "start_offset", name="segments_by_start"),
    )
    _carry_over(
        "segments",
        "stream, sequence, topic_id, partition, start_offset, end_offset, object_key, sha256, rows,"
        " dead_letters, tombstones, commit_us",
    )


def _carry_over(table: str, columns: str) -> None:
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {table}_before")  # noqa: S608
    op.drop_table(f"{table}_before")
