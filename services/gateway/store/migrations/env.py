"""Entry point of Alembic. The only module with an effect on import, as Alembic requires."""

from alembic import context

from services.gateway.store.keys import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
