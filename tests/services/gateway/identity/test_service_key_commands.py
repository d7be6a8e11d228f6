"""Commands for creating, listing and retiring the keys of callers."""

import argparse
from pathlib import Path

import pytest

from services.chassis.identity import Caller
from services.chassis.service_identity import TokenVerifier
from services.gateway.identity.service_key_commands import (
    add_identity_commands,
    run_identity_command,
)


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_identity_commands(parser)
    return run_identity_command(parser.parse_args(words))


def test_rotation_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, following, public = (tmp_path / name for name in ("now.key", "next.key", "public"))
    folder, caller = ("--public", str(public)), ("--caller", "operator")
    for file in (private, following):
        assert run("create", *caller, *folder, "--private", str(file)) == 0
    old, new = capsys.readouterr().out.split()
    assert run("list", *folder) == 0
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()} == {old, new}
    following.replace(private)
    assert run("retire", *caller, *folder, "--private", str(private)) == 0
    assert capsys.readouterr().out.split()[-1] == old
    assert [file.name for file in public.iterdir()] == [f"operator.{new}.pem"]


def test_printed_token_is_valid_for_the_named_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    private, public = tmp_path / "operator.key", tmp_path / "public"
    signed = ("--caller", "operator", "--private", str(private))
    assert run("create", *signed, "--public", str(public)) == 0
    capsys.readouterr()
    words = ("--method", "/a.B/C", "--tenant", "acme", "--user", "ada")
    assert run("token", *signed, *words) == 0
    name, _, token = capsys.readouterr().out.strip().partition(": ")
    verifier = TokenVerifier(public, required=True)
    assert verifier.verify("/a.B/C", Caller("acme", "ada"), [(name, token)]) == "operator"


def test_wrong_names_and_existing_keys_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "a.key", ("--public", str(tmp_path / "public"))
    assert run("create", "--caller", "Gate/way", "--private", str(file), *folder) == 1
    assert "[a-z]" in capsys.readouterr().err
    file.touch()
    assert run("create", "--caller", "gateway", "--private", str(file), *folder) == 1
    assert str(file) in capsys.readouterr().err
    assert not (tmp_path / "public").exists()
