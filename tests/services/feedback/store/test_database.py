"""Schema migrations on SQLite and Postgres, and the state of the first release."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from services.chassis.errors import AlreadyExistsError
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.lake import dead_letter_payloads
from services.feedback.lake.audit import audit
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.projections import answers
from services.feedback.projections.current_feedback import Overlay
from services.feedback.projections.thumbs import Thumbs, catch_up, change_of, fold
from services.feedback.sink import FlushLimits, Sink
from services.feedback.spool.spool import Spool, inspect
from services.feedback.store import tables
from services.feedback.store.database import SCHEMA, connect, migrate, open_database, transaction
from tests.services.feedback.clients import running
from tests.services.feedback.samples import ADA, FEEDBACK, KEY, entry, name, thumb, ups
from tests.services.feedback.sealing_world import SealingWorld

STATE = Path(__file__).parents[1] / "golden" / "state_v1"
ROOM = 1 << 20


def revision(engine: Engine) -> str:
    with engine.begin() as connection:
        return SCHEMA.revision(connection)


def test_the_migrations_create_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/made/ledger.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": SCHEMA.revision_table}
        )
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_sqlite_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    open_database(f"sqlite:///{tmp_path}/made/ledger.db").dispose()
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "made").iterdir()} == {0o600}


def test_a_database_that_is_up_to_date_starts_without_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    open_database(url).dispose()
    program = (
        "import sys; from services.feedback.store.database import open_database as o; "
        f"o({url!r}); print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_failed_migration_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{yesterday(tmp_path)}/ledger.db"
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE claims (x INTEGER)"))
    with pytest.raises(OperationalError) as caught:
        migrate(engine)
    assert "claims" in str(caught.value.orig)
    assert revision(engine) == ""
    with engine.begin() as connection:
        assert connection.execute(text("SELECT count(*) FROM segments")).scalar() == 3
    engine.dispose()


def test_schema_of_a_later_version_is_served_and_not_migrated(tmp_path: Path) -> None:
    """After a rollback: Alembic does not know the later revision, and would fail."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE feedback_revision SET version_num = '9999'"))
    migrate(engine)
    assert revision(engine) == "9999"
    engine.dispose()
    engine = open_database(url)
    assert Ledger(engine).segments("feedback") == []
    engine.dispose()


def yesterday(tmp_path: Path) -> Path:
    """Return the state folder of the first release, with two events still in its spool."""
    root = tmp_path / "state"
    shutil.copytree(STATE, root)
    connection = sqlite3.connect(root / "ledger.db")
    connection.executescript((root / "ledger.sql").read_text())
    connection.close()
    return root


async def test_the_state_of_the_first_release_is_continued(tmp_path: Path) -> None:
    root = yesterday(tmp_path)
    engine = open_database(f"sqlite:///{root}/ledger.db")
    ledger, store = Ledger(engine), Directory(root / "objects")
    assert not catch_up(ledger, store, "feedback"), "the thumbs were carried over"
    spool = Spool(root / "spool" / "feedback", max_bytes=ROOM, segment_bytes=ROOM)
    sink = Sink(FEEDBACK, spool, store, ledger, FlushLimits(100, ROOM), fold)
    sink.assign()
    overlay = Overlay(change_of)
    overlay.add(codec.decoded_feedback(spool.read(sink.position, 100, ROOM)))
    thumbs, principal = Thumbs(engine, overlay), principal_of(KEY, ADA)
    messages = {text: name(text) for text in "mnop"}
    standing = await ups(thumbs, principal, list(messages.values()))
    assert standing == {messages["m"]: False, messages["n"]: False, messages["p"]: True}

    overlay.add(codec.decoded_feedback(spool.append([entry("new", message="n")])))
    assert [record.entry.event_id for record in spool.read(5, 100, ROOM)] == [
        entry(request).event_id for request in ("e", "f", "new")
    ]
    sink.flush()
    overlay.trim(sink.position)
    assert [segment.sequence for segment in ledger.segments("feedback")] == [1, 2, 3]
    assert (await ups(thumbs, principal, list(messages.values())))[messages["n"]] is True
    assert catch_up(ledger, store, "feedback") is False
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM thumb_positions"))
    assert catch_up(ledger, store, "feedback") is True, "from objects of both versions"
    assert (await ups(thumbs, principal, list(messages.values()))) == {
        messages["m"]: False,
        messages["n"]: True,
        messages["p"]: True,
    }
    spool.close()
    assert audit(ledger, store, lambda stream: inspect(root / "spool" / stream)).problems == []
    engine.dispose()


def test_streams_of_an_earlier_version_are_signed_since_the_upgrade_and_new_ones_from_the_start(
    tmp_path: Path,
) -> None:
    """Finding S-22: sinks accept unsigned records only where an earlier version wrote them."""
    new = connect(f"sqlite:///{tmp_path}/new.db")
    migrate(new)
    old = connect(f"sqlite:///{tmp_path}/old.db")
    before = time.time_ns() // 1_000
    with old.begin() as connection:
        command.upgrade(SCHEMA.alembic_config(connection), "0008")
        # A stream with records in its topic and without a segment: a sink has taken the partition.
        connection.execute(text("INSERT INTO partitions VALUES ('id', 0, 'feedback', 1, 0)"))
        connection.execute(text("INSERT INTO streams VALUES ('turns', 5, 0)"))
    migrate(old)
    after = time.time_ns() // 1_000
    for stream in ("feedback", "turns"):
        assert Ledger(new).signed_since_us(stream) == 0
        assert before <= Ledger(old).signed_since_us(stream) <= after
    for engine in (new, old):
        engine.dispose()


def test_answers_are_filled_from_objects_of_earlier_versions(tmp_path: Path) -> None:
    """Rows of revision 0011 lack the columns of 0012, so the table is filled again."""
    root = yesterday(tmp_path)
    engine = connect(f"sqlite:///{root}/ledger.db")
    with engine.begin() as connection:
        command.upgrade(SCHEMA.alembic_config(connection), "0011")
        connection.execute(text("INSERT INTO answers VALUES ('p', 'm', 'v1', 'stable', 0, 1, 2)"))
        connection.execute(
            text(
                "INSERT INTO answer_positions "
                "SELECT topic_id, partition, max(end_offset) FROM segments "
                "WHERE stream = 'turns' GROUP BY topic_id, partition"
            )
        )
    migrate(engine)
    store = Directory(root / "objects")
    assert answers.catch_up(Ledger(engine), store, "turns")
    assert not answers.catch_up(Ledger(engine), store, "turns")
    with engine.begin() as connection:
        (row,) = connection.execute(tables.answers.select())
    assert (row.principal, row.model_version) == (principal_of(KEY, ADA), "v1")
    assert row.conversation_id
    assert row.parent_message_id is None, "turns of earlier versions have no implicit signals"
    engine.dispose()


@pytest.mark.parametrize("earlier", ["0007", "0008", "0009", "0010", "0011"])
def test_a_database_whose_revision_was_set_back_is_migrated_again(
    engine: Engine, earlier: str
) -> None:
    """The way back of upgrading.md: earlier versions need their revision, and write unsigned."""
    record = {"time_us": 1, "act": "erased"} | dict.fromkeys(
        ("actor", "object", "outcome", "detail", "request_id"), earlier
    )
    stream = f"set-back-{earlier}"
    before = time.time_ns() // 1_000
    with engine.begin() as connection:
        connection.execute(tables.audit.insert().values(record))
        connection.execute(
            text("INSERT INTO streams (stream, sequence, plain_sequence) VALUES (:name, 5, 0)"),
            {"name": stream},
        )
        connection.execute(
            text("UPDATE feedback_revision SET version_num = :earlier"), {"earlier": earlier}
        )
    migrate(engine)
    assert revision(engine) == SCHEMA.head
    signed_since_us = Ledger(engine).signed_since_us(stream)
    assert (signed_since_us >= before) == (earlier < "0009")
    with engine.begin() as connection:
        kept = connection.execute(
            tables.audit.select().where(tables.audit.c.actor == earlier)
        ).one()
        assert kept.act == "erased"
        connection.execute(text("DELETE FROM streams WHERE stream = :name"), {"name": stream})
    for change in (tables.audit.delete(), tables.audit.update().values(actor="nobody")):
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(change)


def test_the_state_of_the_first_release_counts_as_plain_and_is_erased(tmp_path: Path) -> None:
    root = yesterday(tmp_path)
    engine = open_database(f"sqlite:///{root}/ledger.db")
    with engine.begin() as connection:
        streams = connection.execute(
            text("SELECT stream, sequence, plain_sequence FROM streams ORDER BY stream")
        ).all()
        dead = connection.execute(text("SELECT commit_us FROM dead_letters")).scalars().all()
        segments = (
            connection.execute(text("SELECT commit_us FROM segments WHERE dead_letters > 0"))
            .scalars()
            .all()
        )
    assert [tuple(row) for row in streams] == [("feedback", 2, 2), ("turns", 1, 1)]
    assert dead == segments, "they age from the day of their segment"
    world = SealingWorld(root, engine)
    assert world.say(thumb("a")) == [0], "a retry across the upgrade"
    assert isinstance(world.say(thumb("a", up=False))[0], AlreadyExistsError)

    erasure, _ = world.erasures.erase(principal_of(KEY, ADA), "acme")
    assert erasure.rewrite_us is None, "plain rows lie in objects"
    world.sink()
    assert len(world.rows()) == sum(
        segment.rows for segment in world.ledger.segments("feedback")[:2]
    )
    assert [segment.tombstones for segment in world.ledger.segments("feedback")][2:] == [2], (
        "what waited in the spool"
    )
    assert world.current() == (0, 0)
    assert catch_up(world.ledger, world.store, "feedback") is False
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM thumb_positions"))
    assert catch_up(world.ledger, world.store, "feedback") is True
    assert world.current() == (0, 0)
    world.close()
    engine.dispose()


async def test_service_closes_the_database_after_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed pool leaves a connection open that a thread returns later."""
    begun, closed, events = threading.Event(), threading.Event(), []

    def clear_slowly(engine: Engine, _before_us: int) -> int:
        event.listen(engine, "engine_disposed", lambda _: (events.append("closed"), closed.set()))
        with transaction(engine):
            begun.set()
            # Without a wait the service would close the database now.
            closed.wait(0.5)
        events.append("returned")
        return 0

    monkeypatch.setattr(dead_letter_payloads, "clear_payloads", clear_slowly)
    async with running(tmp_path):
        await asyncio.to_thread(begun.wait)
    assert events == ["returned", "closed"]
