"""Tables of the audit log, in the database of each service with administrative acts.

A record is inserted in the transaction of its act. Triggers refuse to update, replace, delete or
truncate records, against defects and stolen connections of a service.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    select,
    text,
)


def audit_table(metadata: MetaData, service: str) -> Table:
    """Return the table of a service; services may share a database."""
    return Table(
        f"{service}_audit",
        metadata,
        # SQLite numbers rows by itself only in a column of the type INTEGER.
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
        Column("time_us", BigInteger, nullable=False),
        Column("actor", String(128), nullable=False),
        Column("act", String(64), nullable=False),
        Column("object", String(256), nullable=False),
        Column("outcome", String(64), nullable=False),
        Column("detail", Text, nullable=False),
        Column("request_id", String(64), nullable=False),
    )


def records_since(table: Table, time_us: int) -> Select[tuple[object, ...]]:
    """Return the query for the records since a time, oldest first."""
    return select(table).where(table.c.time_us >= time_us).order_by(table.c.id)


def create(connection: Connection, service: str) -> None:
    """Create the table of a service with its triggers; called by migrations.

    An existing table keeps its records. The table exists if a rollback has set the revision back.
    """
    table = audit_table(MetaData(), service)
    table.create(connection, checkfirst=True)
    for statement in _append_only(table.name, connection.dialect.name):
        connection.execute(text(statement))


def _append_only(table: str, dialect: str) -> list[str]:
    if dialect == "sqlite":
        is_stored = f"NEW.id IN (SELECT id FROM {table})"  # noqa: S608
        return [
            f"CREATE TRIGGER IF NOT EXISTS {table}_{event} BEFORE {event} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for event in ("UPDATE", "DELETE")
        ] + [
            # INSERT OR REPLACE deletes a row without the trigger of DELETE. Here SQLite gives -1
            # for an id that it has yet to assign.
            f"CREATE TRIGGER IF NOT EXISTS {table}_REPLACE BEFORE INSERT ON {table} "
            f"WHEN NEW.id > 0 AND {is_stored} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        ]
    return [
        f"CREATE OR REPLACE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{table} is append-only'; END $$",
        # CREATE OR REPLACE TRIGGER needs Postgres 14.
        f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}",
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION {table}_append_only()",
        f"DROP TRIGGER IF EXISTS {table}_no_truncate ON {table}",
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only()",
    ]
