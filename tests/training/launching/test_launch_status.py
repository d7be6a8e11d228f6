"""Status written by the launcher, and status that it never overwrites."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from services.gateway.http.loop_files import LoopMetrics
from training.launching import launcher
from training.launching.launcher import LaunchStatus
from training.reporting.progress import Lines, ProgressReporter
from training.runs import exclusive


@pytest.fixture
def mine(tmp_path: Path) -> LaunchStatus:
    return LaunchStatus(tmp_path, "tw-turn", "nano")


def status(directory: Path) -> Any:
    return json.loads((directory / "status.json").read_text())


def board(directory: Path, run: str = "nano-1") -> ProgressReporter:
    return ProgressReporter(directory, Lines(io.StringIO()), run, "nano", ["snapshot", "sft"])


def result_metrics(directory: Path) -> dict[str, float]:
    """Return the metrics of the result."""
    found = {}
    for metric in LoopMetrics(directory).collect():
        for sample in metric.samples:
            found[sample.labels.get("result", sample.name)] = sample.value
    return found


def test_waiting_run_is_shown_with_its_reason(tmp_path: Path, mine: LaunchStatus) -> None:
    mine.waiting("waiting for: no node takes the head")
    shown = status(tmp_path)
    assert (shown["run"], shown["recipe"], shown["result"]) == ("tw-turn", "nano", None)
    assert [(step["state"], step["detail"]) for step in shown["steps"]] == [
        ("running", "waiting for: no node takes the head")
    ]
    assert result_metrics(tmp_path)["thumbwheel_loop_running"] == 1
    mine.waiting("the pods of the turn are starting")
    assert status(tmp_path)["steps"][0]["detail"] == "the pods of the turn are starting"


def test_failure_is_a_status_line_and_a_metric(tmp_path: Path, mine: LaunchStatus) -> None:
    mine.waiting("the pods of the turn are starting")
    assert mine.failed("DeadlineExceeded (seen before: no node takes the head)")
    shown = status(tmp_path)
    assert (shown["result"], shown["steps"][0]["state"]) == ("failed", "failed")
    assert "no node takes the head" in shown["reason"]
    assert result_metrics(tmp_path)["failed"] == 1
    assert result_metrics(tmp_path)["thumbwheel_loop_running"] == 0


def test_thumbs_and_erasures_of_the_last_run_remain(tmp_path: Path, mine: LaunchStatus) -> None:
    last = board(tmp_path)
    last.note_thumbs(200, "2026-11-25T10:00:00Z")
    last.note_erased([{"version": "nano-0"}])
    last.finish("promoted", "better", None)
    mine.waiting("the pods of the turn are starting")
    shown = status(tmp_path)
    assert (shown["needed_thumbs"], shown["learned_until"]) == (200, "2026-11-25T10:00:00Z")
    assert shown["erased_versions"] == [{"version": "nano-0"}]


def test_status_of_an_active_run_is_not_overwritten(
    tmp_path: Path, mine: LaunchStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "LOCK_TIMEOUT_SECONDS", 0.0)
    with exclusive(tmp_path, "recipe nano"):
        board(tmp_path).begin("sft")
        before = status(tmp_path)
        mine.waiting("anything")
        assert not mine.failed("anything")
        assert status(tmp_path) == before


def test_interrupted_run_keeps_its_steps_while_waiting_and_after_failure(
    tmp_path: Path, mine: LaunchStatus
) -> None:
    board(tmp_path).begin("sft")
    mine.waiting("waiting for: no node takes the head")
    shown = status(tmp_path)
    assert (shown["run"], shown["result"], shown["step"]) == ("nano-1", None, "sft")
    assert shown["reason"] == "waiting for: no node takes the head"
    assert mine.failed("the head was lost")
    shown = status(tmp_path)
    assert (shown["run"], shown["result"], shown["reason"]) == (
        "nano-1",
        "failed",
        "the head was lost",
    )
    assert [step["state"] for step in shown["steps"]] == ["waiting", "failed"]


@pytest.mark.parametrize(
    ("ended", "shown"), [("promoted", "promoted"), ("failed", "failed"), ("stopped", "failed")]
)
def test_result_of_the_run_remains_except_for_stopped(
    tmp_path: Path, mine: LaunchStatus, ended: str, shown: str
) -> None:
    board(tmp_path).finish(ended, "its own reason", None)
    assert mine.failed("it had not ended after 60 s")
    assert status(tmp_path)["result"] == shown
    assert status(tmp_path)["reason"] == (
        "it had not ended after 60 s" if ended == "stopped" else "its own reason"
    )
