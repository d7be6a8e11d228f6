"""Alembic environment: runs migrations on the connection and transaction of `schema.upgrade`."""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], version_table=attributes["version_table"])
context.run_migrations()
