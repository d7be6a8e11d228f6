"""Comparison of the schema of a database with the tables."""

from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from services.gateway.store.keys import METADATA


def differences(connection: Connection) -> Any:
    """Return the differences between the database and the table definitions."""
    return compare_metadata(MigrationContext.configure(connection), METADATA)
