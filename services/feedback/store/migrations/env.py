"""Alembic environment, run on import as Alembic requires.

The migration uses the connection opened by database.py.
"""

from alembic import context

from services.feedback.store import tables
from services.feedback.store.database import REVISION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    version_table=REVISION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
