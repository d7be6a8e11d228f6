"""What the launcher writes down, and what it never overwrites."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from services.gateway.loop_metrics import LoopMetrics
from training.launching import launch_status
from training.launching.launch_status import LaunchStatus
from training.progress import Lines, ProgressReporter
from training.runs import exclusive


@pytest.fixture
def mine(tmp_path: Path) -> LaunchStatus:
    return LaunchStatus(tmp_path, "tw-turn", "nano")


def status(directory: Path) -> Any:
    return json.loads((directory / "status.json").read_text())


def board(directory: Path, run: str = "nano-1") -> ProgressReporter:
    return ProgressReporter(directory, Lines(io.StringIO()), run, "nano", ["snapshot", "sft"])


def result_metrics(directory: Path) -> dict[str, float]:
    """What Prometheus is told."""
    found = {}
    for metric in LoopMetrics(directory).collect():
        for sample in metric.samples:
            found[sample.labels.get("result", sample.name)] = sample.value
    return found


def test_a_turn_that_has_not_begun_is_shown_as_one_that_waits_and_why(
    tmp_path: Path, mine: LaunchStatus
) -> None:
    mine.waiting("waiting for: no node takes the head")
    shown = status(tmp_path)
    assert (shown["run"], shown["recipe"], shown["result"]) == ("tw-turn", "nano", None)
    assert [(step["state"], step["detail"]) for step in shown["steps"]] == [
        ("running", "waiting for: no node takes the head")
    ]
    assert result_metrics(tmp_path)["thumbwheel_loop_running"] == 1
    mine.waiting("the pods of the turn are starting")
    assert status(tmp_path)["steps"][0]["detail"] == "the pods of the turn are starting"


def test_its_failure_is_a_line_for_people_and_a_metric(tmp_path: Path, mine: LaunchStatus) -> None:
    mine.waiting("the pods of the turn are starting")
    assert mine.failed("DeadlineExceeded (seen before: no node takes the head)")
    shown = status(tmp_path)
    assert (shown["result"], shown["steps"][0]["state"]) == ("failed", "failed")
    assert "no node takes the head" in shown["reason"]
    assert result_metrics(tmp_path)["failed"] == 1
    assert result_metrics(tmp_path)["thumbwheel_loop_running"] == 0


def test_what_the_last_turn_told_about_thumbs_and_erasures_stays(
    tmp_path: Path, mine: LaunchStatus
) -> None:
    last = board(tmp_path)
    last.note_thumbs(200, "2026-11-25T10:00:00Z")
    last.note_erased([{"version": "nano-0"}])
    last.finish("promoted", "better", None)
    mine.waiting("the pods of the turn are starting")
    shown = status(tmp_path)
    assert (shown["needed_thumbs"], shown["learned_until"]) == (200, "2026-11-25T10:00:00Z")
    assert shown["erased_versions"] == [{"version": "nano-0"}]


def test_a_turn_that_runs_holds_the_lock_and_is_left_alone(
    tmp_path: Path, mine: LaunchStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_status, "LOCK_TIMEOUT_SECONDS", 0.0)
    with exclusive(tmp_path, "recipe nano"):
        board(tmp_path).begin("sft")
        before = status(tmp_path)
        mine.waiting("anything")
        assert not mine.failed("anything")
        assert status(tmp_path) == before


def test_a_turn_that_was_cut_off_keeps_its_steps_while_it_waits_and_when_it_is_given_up(
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
def test_a_result_of_the_turn_itself_stands_but_for_a_stop_whose_cause_is_known_now(
    tmp_path: Path, mine: LaunchStatus, ended: str, shown: str
) -> None:
    board(tmp_path).finish(ended, "its own reason", None)
    assert mine.failed("it had not ended after 60 s")
    assert status(tmp_path)["result"] == shown
    assert status(tmp_path)["reason"] == (
        "it had not ended after 60 s" if ended == "stopped" else "its own reason"
    )
