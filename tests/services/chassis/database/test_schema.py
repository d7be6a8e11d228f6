"""Schema of a database: revisions, refusals, and migrations in one transaction."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

from services.chassis.database.schema import Schema
from services.chassis.errors import SchemaRevisionError
from services.feedback.store.database import SCHEMA as FEEDBACK
from services.gateway.store.database import SCHEMA as GATEWAY
from services.generator.store.database import SCHEMA as GENERATOR
from services.review.store.database import SCHEMA as REVIEW
from services.session.store.schema import SCHEMA as SESSION
from tests.support.errors import refused

SERVICES = {
    "feedback": FEEDBACK,
    "gateway": GATEWAY,
    "generator": GENERATOR,
    "review": REVIEW,
    "session": SESSION,
}
# What databases of earlier releases contain, and their replicas lock.
EARLIER = {
    "feedback": ("feedback_revision", "hashtext('feedback_revision')"),
    "gateway": ("alembic_version", "1953982305"),
    "generator": ("generator_revision", "500219471214"),
    "review": ("review_revision", "90457753863511"),
    "session": ("session_revision", "23438647248899918"),
}
MIGRATION = """
from alembic import op

revision, down_revision = "{revision}", {previous}


def upgrade():
    op.execute("{statement}")
"""


@pytest.fixture
def parrots(tmp_path: Path) -> Schema:
    """Return a schema with two migrations, each of which creates one table."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for revision, previous in (("0001", "None"), ("0002", "'0001'")):
        statement = f"CREATE TABLE parrots_{revision} (name TEXT)"
        content = MIGRATION.format(revision=revision, previous=previous, statement=statement)
        (folder / f"r{revision}_parrots.py").write_text(content)
    return Schema(
        folder,
        "parrot_revision",
        lock=7,
        outdated_text="{url} has {found}, needs {head}: run python -m services.parrot migrate",
        unversioned_table="parrots_0001",
    )


@pytest.fixture
def connection() -> Iterator[Connection]:
    """Open a transaction in a database in memory, which begins before its first statement."""
    engine = create_engine("sqlite://", poolclass=StaticPool)
    event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
    with engine.connect() as connection:
        connection.begin()
        yield connection
    engine.dispose()


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def set_revision(connection: Connection, schema: Schema, revision: str) -> None:
    connection.execute(text(f"UPDATE {schema.revision_table} SET version_num = '{revision}'"))


def test_database_is_migrated_once(parrots: Schema, connection: Connection) -> None:
    assert parrots.revision(connection) == ""
    assert parrots.needs_upgrade(connection)
    assert parrots.upgrade(connection) == ("", "0002")
    assert tables(connection) == {"parrot_revision", "parrots_0001", "parrots_0002"}
    assert not parrots.needs_upgrade(connection)
    assert parrots.upgrade(connection) == ("0002", "0002")


def test_database_from_before_revisions_keeps_its_tables(
    parrots: Schema, connection: Connection
) -> None:
    connection.execute(text("CREATE TABLE parrots_0001 (name TEXT)"))
    connection.execute(text("INSERT INTO parrots_0001 VALUES ('Coco')"))
    assert parrots.upgrade(connection) == ("", "0002")
    assert connection.execute(text("SELECT name FROM parrots_0001")).scalars().all() == ["Coco"]


def test_failed_migration_is_rolled_back_with_the_previous_ones(
    parrots: Schema, connection: Connection
) -> None:
    connection.execute(text("CREATE TABLE parrots_0002 (name TEXT)"))
    connection.commit()
    connection.begin()
    with pytest.raises(OperationalError):
        parrots.upgrade(connection)
    connection.rollback()
    assert tables(connection) == {"parrots_0002"}


def test_newer_schema_is_served_unchanged_with_a_warning(
    parrots: Schema, connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    parrots.upgrade(connection)
    set_revision(connection, parrots, "0003")
    with caplog.at_level(logging.WARNING):
        assert not parrots.needs_upgrade(connection)
    assert [getattr(record, "fields", None) for record in caplog.records] == [{"revision": "0003"}]
    assert parrots.upgrade(connection) == ("0003", "0003")


@pytest.mark.parametrize("found", ["", "0001"])
def test_older_schema_is_refused_if_replicas_share_the_database(
    parrots: Schema, connection: Connection, monkeypatch: pytest.MonkeyPatch, found: str
) -> None:
    if found:
        parrots.upgrade(connection)
        set_revision(connection, parrots, found)
    monkeypatch.setattr(connection.dialect, "name", "postgresql")
    with refused(
        SchemaRevisionError, field="database_url", reason="MISMATCH", limit="0002"
    ) as caught:
        parrots.needs_upgrade(connection)
    assert "python -m services.parrot migrate" in caught.value.text


@pytest.mark.parametrize("service", SERVICES)
def test_revision_of_the_newest_file_is_the_last_one_of_the_migrations(
    service: str, connection: Connection
) -> None:
    schema = SERVICES[service]
    assert schema.upgrade(connection) == ("", schema.head)


@pytest.mark.parametrize("service", SERVICES)
def test_table_and_lock_are_those_of_earlier_releases(service: str) -> None:
    schema = SERVICES[service]
    lock = schema.lock
    if not isinstance(lock, int):
        lock = lock.compile(compile_kwargs={"literal_binds": True})
    assert (schema.revision_table, str(lock)) == EARLIER[service]


def test_current_schema_is_found_without_alembic(
    parrots: Schema, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    parrots.upgrade(connection)
    monkeypatch.setitem(sys.modules, "alembic", None)
    assert parrots.upgrade(connection) == ("0002", "0002")


def test_migration_reads_the_revision_again_under_the_lock_of_a_file(
    parrots: Schema, tmp_path: Path
) -> None:
    """Without an event of the engine, the driver begins at the first change only."""
    engine = create_engine(f"sqlite:///{tmp_path}/parrots.db", connect_args={"timeout": 0})
    with engine.connect() as first, engine.connect() as second:

        @event.listens_for(second, "before_cursor_execute")
        def migrate_first(_connection: Connection, _cursor: object, sql: str, *_: object) -> None:
            if sql == "BEGIN EXCLUSIVE":
                assert parrots.upgrade(first) == ("", "0002")
                # Alembic could not migrate a revision of a later version.
                set_revision(first, parrots, "0003")
                first.commit()

        second.begin()
        assert parrots.upgrade(second) == ("0003", "0003")
        # Nothing has changed, but the lock is held until the end of the transaction.
        with pytest.raises(OperationalError, match="locked"):
            parrots.revision(first)
    engine.dispose()
