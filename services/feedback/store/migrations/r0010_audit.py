"""Table of the audit log, which starts empty."""

from alembic import op

from services.chassis.audit.table import create

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the append-only table of administrative acts."""
    create(op.get_bind(), "feedback")
