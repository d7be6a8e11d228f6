"""The lock of the loop, unfinished runs, and complete status files."""

import io
import json
import multiprocessing
import os
import signal
import time
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.reporting.progress import Lines, ProgressReporter, StepState
from training.runs import LoopRunningError, RunRecord, RunResult, Runs, exclusive


def hold(directory: Path, held: Event, seconds: float) -> None:
    with exclusive(directory, "recipe nano"):
        held.set()
        time.sleep(seconds)


def another_holds(directory: Path, seconds: float) -> SpawnProcess:
    """Start a process that holds the lock when this function returns."""
    spawn = multiprocessing.get_context("spawn")
    held = spawn.Event()
    other = spawn.Process(target=hold, args=(directory, held, seconds))
    other.start()
    assert held.wait(60)
    return other


def test_a_second_loop_names_the_first_and_a_kill_leaves_no_lock(tmp_path: Path) -> None:
    other = another_holds(tmp_path, 60)
    with (
        refused(LoopRunningError, field="lock", reason="IN_USE") as caught,
        exclusive(tmp_path, "x"),
    ):
        pass
    assert other.pid is not None
    assert str(other.pid) in str(caught.value)
    assert "recipe nano" in str(caught.value)
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with exclusive(tmp_path, "recipe nano"):
        pass


def test_a_waiting_loop_starts_after_the_other_has_ended(tmp_path: Path) -> None:
    other = another_holds(tmp_path, 1)
    with exclusive(tmp_path, "recipe nano", timeout_seconds=60):
        holder = (tmp_path / "lock").read_text()
        assert str(os.getpid()) in holder
        assert "recipe nano" in holder
    other.join()


def record(
    version: str, recipe: str = "nano", started: str = "2026-11-24T10:00:00+00:00"
) -> RunRecord:
    return RunRecord(version, recipe, f"{recipe}-0", "snapshot-1", started)


def test_only_the_last_unfinished_run_of_the_recipe_resumes(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.unfinished("nano") is None
    runs.begin(record("nano-9", started="2026-11-24T10:00:00+00:00"))
    runs.begin(record("nano-10", started="2026-11-24T11:00:00+00:00"))
    runs.begin(record("small-1", "small", started="2026-11-24T12:00:00+00:00"))
    found = runs.unfinished("nano")
    assert found is not None
    assert found.version == "nano-10"
    runs.end("nano-10", RunResult("promoted", "better", "2026-11-24T11:30:00+00:00"))
    assert runs.unfinished("nano") is None
    assert runs.names() == ["nano-9", "nano-10", "small-1"]


def test_a_run_with_an_incomplete_record_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "runs" / "nano-1").mkdir(parents=True)
    (tmp_path / "runs" / "nano-1" / "run.partial").write_text("{")
    assert Runs(tmp_path).names() == []


def test_the_status_shows_the_step_of_the_run(tmp_path: Path) -> None:
    out = io.StringIO()
    reporter = ProgressReporter(tmp_path, Lines(out), "nano-1", "nano", ("snapshot", "sft", "gate"))

    def status() -> dict[str, object]:
        return json.loads((tmp_path / "status.json").read_text())

    with reporter.step("snapshot") as step:
        assert status()["step"] == "snapshot"
        step.detail = "12 thumbs"
    first = status()["steps"][0]
    assert (first["state"], first["progress"], first["detail"]) == ("done", 1.0, "12 thumbs")
    with reporter.step("gate") as step:
        step.state = StepState.REFUSED
    reporter.finish("refused", "win rate", "runs/nano-1/report.html")
    end = status()
    assert [step["state"] for step in end["steps"]] == ["done", "skipped", "refused"]
    assert (end["result"], end["report"], end["step"]) == ("refused", "runs/nano-1/report.html", "")
    assert "snapshot: done 12 thumbs" in out.getvalue()


def test_a_step_that_raises_is_shown_as_failed(tmp_path: Path) -> None:
    reporter = ProgressReporter(tmp_path, Lines(io.StringIO()), "nano-1", "nano", ("sft",))
    with pytest.raises(RuntimeError), reporter.step("sft"):
        raise RuntimeError
    assert json.loads((tmp_path / "status.json").read_text())["steps"][0]["state"] == "failed"
