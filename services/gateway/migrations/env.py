"""Alembic's entrance. It runs what is imported, so this is the one module of the house whose import
does something.
"""

from alembic import context

from services.gateway.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
with context.begin_transaction():
    context.run_migrations()
