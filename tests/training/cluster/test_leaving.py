"""Preemption under Ray: a machine leaves after its current step, and the others resume there."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.cluster import leaving_run
from tests.training.cluster.compared_runs import POLITE_TO_NOBODY, assert_alike
from tests.training.cluster.killed_run import write_inputs
from tests.training.cluster.leaving_run import MACHINE_LEAVES
from tests.training.cluster.moved_run import STEPS, moved
from tests.training.toys import sft_rows, write_lines
from training.cluster.runner import StageRun, run_stage
from training.progress_log import PROGRESS, read_lines
from training.stages import sft


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_preempted_machine_saves_its_step_and_others_resume_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_inputs(tmp_path)
    write_lines(tmp_path / "sft.jsonl", sft_rows(32))
    for name, value in POLITE_TO_NOBODY.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", leaving_run.__name__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    taken = [
        (line.progress.step, line.effort.workers)
        for line in read_lines(tmp_path / "runs" / "left" / PROGRESS)
    ]
    assert taken == [(step, 2 if step <= MACHINE_LEAVES else 1) for step in range(1, STEPS + 1)], (
        "no step twice"
    )
    run_stage(StageRun("straight", sft.run, moved(tmp_path, "straight")), tmp_path / "runs")
    assert_alike(tmp_path / "runs" / "straight" / PROGRESS, tmp_path / "runs" / "left" / PROGRESS)
