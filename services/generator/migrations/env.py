"""Alembic's entry: runs the steps on the connection that `migrate` made."""

from alembic import context

from services.generator.database import METADATA, REVISION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=REVISION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
