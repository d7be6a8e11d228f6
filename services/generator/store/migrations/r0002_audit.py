"""Table of the audit log, initially empty."""

from alembic import op

from services.chassis.audit.table import create

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the append-only table of administrative acts."""
    create(op.get_bind(), "generator")
