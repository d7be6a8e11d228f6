"""Commands on the object store, and the settings shared with the service."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.feedback.__main__ import main
from services.feedback.settings import FeedbackSettings
from services.feedback.store import tables
from services.feedback.store.database import opened_database, transaction
from tests.s3_server import S3Server, serving
from tests.services.feedback.samples import KEY, MASTER

FOREIGN = "feedback/v1/notes.txt"
Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `python -m services.feedback …` in this process and return its exit status."""
    monkeypatch.setenv("TW_FEEDBACK_PRINCIPAL_KEY", KEY)
    monkeypatch.setenv("TW_FEEDBACK_MASTER_KEY", MASTER)
    monkeypatch.setenv("TW_FEEDBACK_DATABASE_URL", f"sqlite:///{tmp_path}/ledger.db")
    monkeypatch.setenv("TW_FEEDBACK_OBJECT_DIRECTORY", str(tmp_path / "objects"))

    def run(*arguments: str, **settings: str) -> int:
        monkeypatch.setattr(sys, "argv", ["feedback", *arguments])
        for name, value in settings.items():
            monkeypatch.setenv(f"TW_FEEDBACK_{name.upper()}", value)
        return main()

    return run


@pytest.fixture
def server() -> S3Server:
    return S3Server()


@pytest.fixture
def s3(server: S3Server) -> Iterator[dict[str, str]]:
    """Return the settings for the S3 server."""
    with serving(server) as port:
        yield {
            "s3_endpoint": f"127.0.0.1:{port}",
            "s3_secure": "false",
            "s3_access_key": "access",
            "s3_secret_key": "secret",
            "s3_bucket": "thumbs",
        }


def test_the_bucket_is_created_once_and_checked(
    run: Run, server: S3Server, s3: dict[str, str], capsys
) -> None:
    assert run("bucket", **s3) == 0
    made = capsys.readouterr().out
    assert server.buckets == {"thumbs": {}}
    assert run("bucket") == 0
    found = capsys.readouterr().out
    assert server.buckets == {"thumbs": {}}
    assert " thumbs " in made
    assert " thumbs " in found
    assert made != found


def test_a_directory_needs_no_bucket(run: Run, capsys) -> None:
    assert run("bucket") == 2
    assert capsys.readouterr().err.startswith("s3_endpoint: ")


def test_a_rejecting_store_is_reported_in_one_line_with_the_setting(
    run: Run, server: S3Server, s3: dict[str, str], capsys
) -> None:
    server.refusals = ["SignatureDoesNotMatch"]
    assert run("orphans", **s3) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert " s3_secret_key: 127.0.0.1" in line


def test_orphans_are_listed_and_deleted_only_on_request(
    run: Run, server: S3Server, s3: dict[str, str], capsys
) -> None:
    server.buckets["thumbs"] = {FOREIGN: b"1"}
    assert run("orphans", **s3) == 0
    assert f" kept {FOREIGN}\norphans=1 dead=0 deleted=0" in capsys.readouterr().out
    assert run("orphans", "--delete", "--older-than", "0s") == 0
    assert server.buckets["thumbs"] == {FOREIGN: b"1"}
    with pytest.raises(SystemExit):
        run("orphans", "--older-than", "yesterday")


def test_dead_letters_are_counted_by_reason_without_their_content(
    run: Run, tmp_path: Path, capsys
) -> None:
    assert run("dead-letters") == 0
    assert capsys.readouterr().out == "0 dead letters\n"
    errors = ("signature is wrong", "signature is missing", "signature is wrong")
    letters = [
        {
            "topic_id": "t",
            "partition": 0,
            "offset": offset,
            "error": error,
            "payload_base64": "secret",
            "commit_us": 1_800_000_000_000_000 + offset * 1_000_000,
        }
        for offset, error in enumerate(errors)
    ]
    with (
        opened_database(f"sqlite:///{tmp_path}/ledger.db") as engine,
        transaction(engine) as connection,
    ):
        connection.execute(tables.dead_letters.insert(), letters)
    assert run("dead-letters") == 0
    assert capsys.readouterr().out == (
        "2 records, newest 2027-01-15T08:00:02Z: signature is wrong\n"
        "1 records, newest 2027-01-15T08:00:01Z: signature is missing\n"
        "3 dead letters\n"
    )


def test_the_service_does_not_start_with_a_rejecting_store(
    tmp_path: Path, server: S3Server, s3: dict[str, str]
) -> None:
    settings = {
        "PORT": "0",
        "METRICS_PORT": "0",
        "PRINCIPAL_KEY": KEY,
        "MASTER_KEY": MASTER,
        "DATABASE_URL": f"sqlite:///{tmp_path}/ledger.db",
        "SPOOL_DIRECTORY": str(tmp_path / "spool"),
    }
    environment = {f"TW_FEEDBACK_{name.upper()}": value for name, value in (settings | s3).items()}
    done = subprocess.run(
        [sys.executable, "-m", "services.feedback"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert " s3_bucket: 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert server.buckets == {}


@pytest.mark.parametrize(
    ("wrong", "named", "kind"),
    [
        ({"s3_endpoint": "http://127.0.0.1:8333"}, ("s3_endpoint",), "string_pattern_mismatch"),
        ({"s3_endpoint": "127.0.0.1:8333"}, (), "incomplete"),
        ({"s3_credentials": "chain", "s3_access_key": "a"}, (), "ambiguous"),
        ({"s3_credentials": "iam"}, ("s3_credentials",), "literal_error"),
        ({"s3_bucket": "ab"}, ("s3_bucket",), "string_pattern_mismatch"),
        ({"s3_request_seconds": "0"}, ("s3_request_seconds",), "greater_than"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, str], named: tuple[str, ...], kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FeedbackSettings(principal_key=KEY, master_key=MASTER, **wrong)
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == (named, kind)
    assert kind != "incomplete" or {"s3_access_key", "s3_secret_key"} <= set(
        re.findall(r"\w+", error["msg"])
    )


def test_secrets_are_not_shown() -> None:
    settings = FeedbackSettings(
        principal_key=KEY,
        master_key=MASTER,
        s3_endpoint="a:1",
        s3_access_key="access",
        s3_secret_key="a secret of the tests",
    )
    assert "a secret of the tests" not in repr(settings)


def test_credentials_of_the_environment_need_no_keys() -> None:
    settings = FeedbackSettings(
        principal_key=KEY, master_key=MASTER, s3_endpoint="a:1", s3_credentials="chain"
    )
    assert not settings.s3_access_key


def test_unsigned_records_are_accepted_for_the_retention_after_an_upgrade_or_until_a_time() -> None:
    base = {"principal_key": KEY, "master_key": MASTER}
    settings = FeedbackSettings(**base, retention_days=2)
    upgraded_us = 1_700_000_000_000_000
    assert settings.unsigned_until_us(0) == 0, "a new installation"
    assert settings.unsigned_until_us(upgraded_us) == upgraded_us + 2 * 86_400 * 1_000_000
    for signed_since_us in (0, upgraded_us):
        until = FeedbackSettings(**base, unsigned_records_until="2026-12-01T00:00:00Z")
        assert until.unsigned_until_us(signed_since_us) == 1_796_083_200_000_000
    with pytest.raises(ValidationError, match="unsigned_records_until"):
        FeedbackSettings(**base, unsigned_records_until="2026-12-01T00:00:00")
