"""Schema revision of the database, and the migration to the revision of this version.

The comparison needs one query and does not import Alembic. Migrations only add tables and columns,
so that replicas of the previous version continue to serve during a rollout. An unknown revision
belongs to a later version and is served.
"""

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table, text

from services.chassis.errors import DetailedError

# Named after the service, because other services may use the same database.
VERSION_TABLE = "session_revision"
# Revisions of the files in migrations/versions, oldest first.
REVISIONS = ("0001", "0002", "0003")
MIGRATIONS = Path(__file__).parent / "migrations"
# Key of the advisory lock that serialises migrations.
MIGRATION_LOCK = int.from_bytes(b"SESSION")


class OutdatedSchemaError(DetailedError):
    """The schema is older than this version needs; `limit` is the required revision."""

    reason = "MISMATCH"

    def __init__(self) -> None:
        super().__init__(
            "the schema of the sessions database is older than this version: "
            "run `python -m services.session migrate`",
            field="database_url",
            limit=REVISIONS[-1],
        )


def is_outdated(connection: Connection) -> bool:
    """Return True if migrations are missing."""
    found = _revision(connection)
    return found is None or found in REVISIONS[:-1]


def upgrade(connection: Connection) -> None:
    """Run the missing migrations in the transaction of the connection.

    Concurrent migrations of a Postgres database wait for the first and then change nothing.
    """
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    if not is_outdated(connection):
        return
    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(MIGRATIONS))
    if _revision(connection) is None and inspect(connection).has_table("conversations"):
        # Created by the version without migrations.
        command.stamp(config, REVISIONS[0])
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(
        select(column("version_num")).select_from(table(VERSION_TABLE))
    ).scalar()
