"""Schema of a service's database: the applied revision, and the migrations with Alembic.

Migrations only add to a schema. Replicas of the previous version therefore continue to serve during
a rollout, which migrates the database first, and so does a later schema after a rollback.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, String, column, func, inspect, select, table

from services.chassis.database.url import redacted_url
from services.chassis.errors import SchemaRevisionError
from services.chassis.telemetry import fields

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schema:
    """Schema of one service's database, with blocking functions on a connection.

    Revision table and lock never change, because replicas of two versions run during a rollout.

    Args:
        migrations: folder with a file `rNNNN_subject.py` for each revision, which is NNNN.
        revision_table: table with the applied revision; its name contains the service, because
            services may share a database.
        lock: key of the advisory lock of Postgres under which migrations run.
        outdated_text: text of the refusal, with the migration command, and with {url}, {found} and
            {head} for the database, its revision and the newest one.
        unversioned_table: table of databases from before revisions, which have the schema of
            revision 0001; empty if there are none.
    """

    migrations: Path
    revision_table: str
    lock: int | ColumnElement[int]
    outdated_text: str
    unversioned_table: str = ""

    @property
    def head(self) -> str:
        """Newest revision. The names of the files suffice, and Alembic takes 0.4 s to import."""
        return max(file.name[1:5] for file in self.migrations.glob("r*.py"))

    def revision(self, connection: Connection) -> str:
        """Return the applied revision, or "" before the first migration."""
        if not inspect(connection).has_table(self.revision_table):
            return ""
        applied = column("version_num", String)
        query = select(applied).select_from(table(self.revision_table))
        return connection.execute(query).scalar() or ""

    def needs_upgrade(self, connection: Connection) -> bool:
        """Return True if a SQLite database lacks migrations, which the caller then applies.

        Postgres is migrated by a command, because replicas share the database.

        Raises:
            SchemaRevisionError: a Postgres database lacks migrations.
        """
        found, head = self.revision(connection), self.head
        if found > head:
            log.warning("database is newer than this program", extra=fields(revision=found))
        if found >= head:
            return False
        if connection.dialect.name == "sqlite":
            return True
        raise SchemaRevisionError(
            self.outdated_text.format(
                url=redacted_url(connection.engine.url), found=found or "none", head=head
            ),
            field="database_url",
            limit=head,
        )

    def upgrade(self, connection: Connection) -> tuple[str, str]:
        """Apply the missing migrations; return the revisions before and after.

        The connection is in a transaction, to which all changes belong. Concurrent migrations wait
        for the first one and then change nothing. A current schema needs no lock.
        """
        if (found := self.revision(connection)) >= self.head:
            return found, found
        # Before the lock and for migrations only, because the import takes 0.4 s.
        from alembic import command

        driver_connection: Any = connection.connection.driver_connection
        if connection.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(self.lock)))
        elif not driver_connection.in_transaction:
            # The driver begins transactions itself, late and DEFERRED, unless the engine does.
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
        if (before := self.revision(connection)) >= self.head:
            return before, before
        config = self.alembic_config(connection)
        is_unversioned = not before and self.unversioned_table
        if is_unversioned and inspect(connection).has_table(self.unversioned_table):
            command.stamp(config, "0001")
        command.upgrade(config, "head")
        return before, self.revision(connection)

    def alembic_config(self, connection: Connection) -> "Config":
        """Return the configuration for commands of Alembic; `env.py` uses the connection."""
        from alembic.config import Config

        attributes = {"connection": connection, "version_table": self.revision_table}
        config = Config(attributes=attributes)
        config.set_main_option("script_location", str(Path(__file__).parent))
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", str(self.migrations))
        return config
