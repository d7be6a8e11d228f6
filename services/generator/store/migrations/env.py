"""Entry point of alembic: run the migrations on the connection opened by `migrate`."""

from alembic import context

from services.generator.store.database import METADATA, REVISION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=REVISION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
