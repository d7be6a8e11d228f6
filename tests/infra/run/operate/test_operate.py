"""Administrative commands find the stores of a state folder, embedded or of the stack."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.run.embedded.environment import Environment, service_environment, write_environment
from infra.run.operate.__main__ import print_audit_log
from infra.service_table import service_table
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.sealing import MasterKey
from services.feedback.store.database import open_database

ROOT = Path(__file__).resolve().parents[4]
ROLLOUT = (
    '{"format": 1, "stable": {"version": "v1", "directory": "/models/v1"}, "candidate": null,'
    ' "retired": [], "history": []}'
)


def run(*words: str, **environment: str) -> str:
    """Run a module in a process, and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "gen", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def halted(state: Path) -> Any:
    """Halt the rollout of a new state folder, and return the rollout that the command prints."""
    file = state / "generator" / "rollout.json"
    file.parent.mkdir()
    file.write_text(ROLLOUT)
    words = ("halt", "--state", str(state), "--reason", "odd answers", "--by", "ada", "--json")
    return json.loads(run("thumbwheel_cli", *words))


def test_halt_changes_the_rollout_of_the_state_folder(tmp_path: Path) -> None:
    printed = halted(tmp_path)
    halt = json.loads((tmp_path / "generator" / "rollout.json").read_text())["halt"]
    assert (halt["operator"], halt["reason"]) == ("ada", "odd answers")
    assert printed["halt"] == halt


def test_every_database_of_an_embedded_run_has_a_variable(tmp_path: Path) -> None:
    environment = service_environment(tmp_path)
    for service in service_table().grpc:
        if service.database and service.database.file:
            url = environment[f"TW_{service.name.upper()}_DATABASE_URL"]
            assert str(tmp_path) in url


def test_the_stack_replaces_the_stores_of_an_embedded_run(tmp_path: Path) -> None:
    stores = {"TW_GENERATOR_DATABASE_URL": "postgresql+asyncpg://example/generator"}
    write_environment(tmp_path, Environment("unused", service_environment=stores))
    environment = service_environment(tmp_path)
    assert environment["TW_GENERATOR_DATABASE_URL"] == stores["TW_GENERATOR_DATABASE_URL"]
    assert "TW_GENERATOR_ROLLOUT_FILE" not in environment


def test_master_key_of_the_state_folder_is_rotated(tmp_path: Path) -> None:
    old, new = "5e" * 32, "7c" * 32
    (tmp_path / "feedback").mkdir()
    engine = open_database(f"sqlite:///{tmp_path}/feedback/ledger.db")
    keys = DataKeys(engine, MasterKey(old))
    keys.fingerprint_key()
    before = keys.get_or_create({"a" * 64: "acme"})
    (tmp_path / "principal.key").write_text("p" * 16)
    (tmp_path / "master.key").write_text(new)
    words = ("keys", "master", "--state", str(tmp_path))
    run("thumbwheel_cli", *words, TW_FEEDBACK_ACCEPTED_MASTER_KEYS=old)
    assert DataKeys(engine, MasterKey(new)).existing(["a" * 64]) == before
    engine.dispose()


def test_audit_logs_of_all_services_are_joined_in_order_of_time(tmp_path: Path) -> None:
    for name in ("principal", "master"):
        (tmp_path / f"{name}.key").write_text("5e" * 32)
    halted(tmp_path)
    run("services.gateway", "keys", "create", "--user", "ada", **service_environment(tmp_path))
    lines = run("thumbwheel_cli", "audit", "--state", str(tmp_path), "--since", "1h").splitlines()
    records = [json.loads(line) for line in lines]
    assert [(each["service"], each["act"]) for each in records] == [
        ("generator", "rollout halted"),
        ("gateway", "key created"),
    ]
    only = run("thumbwheel_cli", "audit", "--state", str(tmp_path), "--service", "generator")
    assert only.splitlines() == lines[:1]


def operate(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT), str(ROOT / "gen")))
    return subprocess.run(
        [sys.executable, "-m", "thumbwheel_cli", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_keys_are_those_of_the_state_folder_from_any_directory(tmp_path: Path) -> None:
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    state.mkdir()
    elsewhere.mkdir()
    created = operate("keys", "create", "--user", "ada", "--state", str(state), cwd=elsewhere)
    assert created.returncode == 0, created.stderr
    assert created.stdout.startswith("tw_")
    listed = operate("keys", "list", "--state", str(state), cwd=elsewhere)
    assert "default/ada" in listed.stdout, listed.stderr
    assert list(elsewhere.iterdir()) == []


def test_audit_prints_the_records_of_services_that_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "feedback").mkdir()
    (tmp_path / "feedback" / "ledger.db").write_text("no database")
    monkeypatch.setenv("PYTHONPATH", "gen")
    monkeypatch.chdir(ROOT)
    assert print_audit_log(tmp_path, ["--service", "generator"]) == 0
    assert capfd.readouterr().out == "", "no empty line without records"
    (tmp_path / "generator").mkdir()
    record = {"time_us": 1, "act": "rollout halted"} | dict.fromkeys(
        ("actor", "object", "outcome", "detail", "request_id"), ""
    )
    (tmp_path / "generator" / "audit.jsonl").write_text(f"{json.dumps(record)}\n")
    assert print_audit_log(tmp_path, []) > 0
    printed = capfd.readouterr()
    (line,) = printed.out.splitlines()
    assert json.loads(line)["act"] == "rollout halted"
    assert "audit: no complete log of feedback" in printed.err


@pytest.mark.parametrize("words", [("keys", "list"), ("audit",), ("rollout",)])
def test_missing_state_folder_is_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    missing = tmp_path / "missing"
    done = operate(*words, "--state", str(missing))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--state: no state folder {missing}" in done.stderr
    assert not missing.exists()


@pytest.mark.parametrize("words", [("halt",), ("keys", "create")])
def test_usage_of_an_error_names_the_command(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = operate(words[0], "--state", str(tmp_path), *words[1:])
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: thumbwheel {' '.join(words)} ")
    assert "python -m" not in done.stderr


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        (("halt",), "thumbwheel halt"),
        (("keys", "create"), "thumbwheel keys create"),
        (("keys", "master"), "thumbwheel keys master"),
        (("audit",), "thumbwheel audit"),
    ],
)
def test_help_names_the_command_and_the_state_option(words: tuple[str, ...], usage: str) -> None:
    done = operate(*words, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {usage} ")
    assert "--state" in done.stdout and "python -m" not in done.stdout
