"""Alembic environment: runs migrations on the connection of `database.migrate`."""

from alembic import context

from services.review.store.tables import METADATA

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table=attributes["version_table"],
    target_metadata=METADATA,
)
context.run_migrations()
