"""Errors of `thumbwheel review draw` and `export`: one line and exit status 1."""

from pathlib import Path

import pytest

from infra.run.supervision.ports import free_port
from tests.training.refused_commands import refused_command
from training.service_channel import RemoteError


@pytest.mark.parametrize(
    "command", [("draw",), ("export", "--out", "reviews.jsonl"), ("appeals", "--out", "appeals")]
)
def test_a_missing_state_folder_is_refused(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ("--state", str(tmp_path / "none"))
    refused_command([*command, *state], capsys, field="state", reason="MISSING")


@pytest.mark.parametrize(
    ("words", "field", "limit"),
    [
        (("--random", "-1"), "random", "at least 0"),
        (("--new-version", "-1"), "new_version", "at least 0"),
        (("--days", "0"), "days", "above 0"),
        (("--new-version-days", "nan"), "new_version_days", "above 0"),
    ],
)
def test_amounts_and_days_out_of_range_are_refused(
    words: tuple[str, ...],
    field: str,
    limit: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = ("--state", str(tmp_path))
    refused_command(
        ["draw", *state, *words], capsys, field=field, reason="OUT_OF_RANGE", limit=limit
    )


@pytest.mark.slow
def test_an_unavailable_service_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "reviews.jsonl"
    nowhere = f"127.0.0.1:{free_port()}"
    words = ["--state", str(tmp_path), "--feedback", nowhere, "--review", nowhere]
    refused_command(["draw", *words], capsys, RemoteError, field="feedback", reason="UNAVAILABLE")
    refused_command(
        ["export", *words, "--out", str(output)],
        capsys,
        RemoteError,
        field="review",
        reason="UNAVAILABLE",
    )
    assert not output.exists()
