"""Entry point of Alembic: run the migrations on the connection of `Schema.upgrade`.

The only module with an effect on import, as Alembic requires.
"""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
context.run_migrations()
