"""Audit log of the feedback service: erasures and rotations of the master key."""

import argparse
import json
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select, text, update
from sqlalchemy.exc import DBAPIError

from services.feedback.commands import add_commands, run_command
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.erasures import Erasures
from services.feedback.principals.sealing import MasterKey
from services.feedback.settings import FeedbackSettings
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError, open_database
from tests.services.feedback.samples import KEY, MASTER

ADA, NEW = "a" * 64, "7c" * 32


def test_erasure_is_recorded_once_and_names_no_user(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    keys = DataKeys(engine, MasterKey(MASTER))
    keys.get_or_create({ADA: "acme"})
    erasure, created = Erasures(engine).erase(ADA, "acme")
    assert created
    assert Erasures(engine).erase(ADA, "acme") == (erasure, False)
    mine = tables.audit.c.object == erasure.erasure_id
    with engine.begin() as connection:
        (record,) = connection.execute(select(tables.audit).where(mine)).mappings()
    assert (record["act"], record["actor"], record["outcome"]) == (
        "user erased",
        "unsigned",
        "done",
    )
    assert ADA not in str(dict(record))
    assert caplog.messages.count("administrative act") == 1


def test_erasure_without_its_record_does_not_take_effect(
    sqlite_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    keys = DataKeys(sqlite_engine, MasterKey(MASTER))
    before = keys.get_or_create({ADA: "acme"})
    with sqlite_engine.begin() as connection:
        connection.execute(text("ALTER TABLE feedback_audit RENAME TO elsewhere"))
    with pytest.raises(LedgerUnavailableError):
        Erasures(sqlite_engine).erase(ADA, "acme")
    assert keys.existing([ADA]) == before
    assert "administrative act" not in caplog.messages


def replacement(names: str, values: str) -> str:
    columns = "time_us, actor, act, object, outcome, detail, request_id"
    return f"""INSERT OR REPLACE INTO feedback_audit ({names}{columns})
        SELECT {values}1, 'nobody', '', '', '', '', '' FROM feedback_audit LIMIT 1"""


@pytest.mark.parametrize(
    ("database", "change"),
    [
        ("postgres", "TRUNCATE feedback_audit"),
        ("sqlite", replacement("id, ", "id, ")),
        ("sqlite", replacement("rowid, ", "id, ")),
        ("sqlite", "UPDATE OR REPLACE feedback_audit SET id = id + 1"),
    ],
)
def test_database_refuses_to_truncate_or_replace_records(
    request: pytest.FixtureRequest, database: str, change: str
) -> None:
    engine: Engine = request.getfixturevalue(f"{database}_engine")

    def records() -> list[object]:
        with engine.begin() as connection:
            return list(connection.execute(select(tables.audit).order_by(tables.audit.c.id)))

    keys = DataKeys(engine, MasterKey(MASTER))
    for _ in range(2):
        keys.get_or_create({ADA: "acme"})
        Erasures(engine).erase(ADA, "acme")
    before = records()
    with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
        connection.execute(text(change))
    assert records() == before
    if database == "sqlite":
        # Also a record with the number that stands for an id to be assigned stops no other record.
        for change in (replacement("id, ", "-1, "), replacement("", ""), replacement("", "")):
            with engine.begin() as connection:
                connection.execute(text(change))
        assert len(records()) == len(before) + 3


@pytest.mark.parametrize("change", [update(tables.audit).values(actor=""), delete(tables.audit)])
def test_database_refuses_to_change_records(engine: Engine, change: object) -> None:
    DataKeys(engine, MasterKey(MASTER)).get_or_create({ADA: "acme"})
    Erasures(engine).erase(ADA, "acme")
    with pytest.raises(DBAPIError), engine.begin() as connection:
        connection.execute(change)  # type: ignore[call-overload]


def test_rotation_of_the_master_key_is_recorded_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    engine = open_database(url)
    keys = DataKeys(engine, MasterKey(MASTER))
    keys.get_or_create({ADA: "acme"})
    keys.fingerprint_key()
    engine.dispose()
    settings = FeedbackSettings(
        principal_key=KEY, master_key=NEW, accepted_master_keys=MASTER, database_url=url
    )
    parser = argparse.ArgumentParser()
    add_commands(parser)
    assert run_command(settings, parser.parse_args(["rotate-master-key", "--by", "ada"])) == 0
    capsys.readouterr()
    assert run_command(settings, parser.parse_args(["audit-log", "--since", "1h"])) == 0
    started, record = map(json.loads, capsys.readouterr().out.splitlines())
    assert (started["act"], started["actor"]) == ("master key rotation started", "operator/ada")
    assert (record["actor"], record["act"], record["outcome"]) == (
        "operator/ada",
        "master key rotated",
        "done",
    )
    assert record["detail"].startswith("2 of 2 ")


def test_interrupted_rotation_of_the_master_key_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    settings = FeedbackSettings(
        principal_key=KEY, master_key=NEW, accepted_master_keys=MASTER, database_url=url
    )

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("services.feedback.commands.rotate", interrupted)
    parser = argparse.ArgumentParser()
    add_commands(parser)
    with pytest.raises(KeyboardInterrupt):
        run_command(settings, parser.parse_args(["rotate-master-key", "--by", "ada"]))
    engine = open_database(url)
    with engine.begin() as connection:
        (record,) = connection.execute(select(tables.audit)).mappings()
    engine.dispose()
    assert (record["actor"], record["act"]) == ("operator/ada", "master key rotation started")
