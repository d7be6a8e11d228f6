"""Which revision of the schema a database has, and how it gets to ours. The comparison costs one
query and no Alembic.

Migrations only add, so that the version before goes on serving while replicas are replaced: a
revision that is not known here is a later version's, and is served.
"""

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table, text

from services.chassis.errors import DetailedError

# Of its own name: other services may share the database.
VERSION_TABLE = "session_revision"
# Oldest first; the files in migrations/versions.
REVISIONS = ("0001", "0002", "0003")
MIGRATIONS = Path(__file__).parent / "migrations"
# The advisory lock that lets one migration run at a time.
MIGRATION_LOCK = int.from_bytes(b"SESSION")


class DatabaseBehindError(DetailedError):
    """The schema is older than this version needs; the text says what to run, `limit` is the
    revision that is needed.
    """

    reason = "MISMATCH"

    def __init__(self) -> None:
        super().__init__(
            "the sessions database is behind this version: run `python -m services.session migrate`",
            field="database_url",
            limit=REVISIONS[-1],
        )


def is_behind(connection: Connection) -> bool:
    """Whether migrations are missing."""
    found = _revision(connection)
    return found is None or found in REVISIONS[:-1]


def upgrade(connection: Connection) -> None:
    """Run what is missing, in the connection's transaction; whoever comes second at the same time
    finds nothing to do.
    """
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    if not is_behind(connection):
        return
    config = Config(attributes={"connection": connection, "version_table": VERSION_TABLE})
    config.set_main_option("script_location", str(MIGRATIONS))
    if _revision(connection) is None and inspect(connection).has_table("conversations"):
        # Made by the version that had no migrations yet.
        command.stamp(config, REVISIONS[0])
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(
        select(column("version_num")).select_from(table(VERSION_TABLE))
    ).scalar()
