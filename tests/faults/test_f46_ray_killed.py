"""F46: Ray's worker or its head node is killed during training.

The run continues from its last checkpoint, bit for bit.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.training_run import CHECKPOINT_EVERY, STEPS, sft_config
from tests.servers import descendants
from tests.training.toys import sft_rows, toy_model, write_lines
from training.artifacts.manifest import verify_manifest
from training.cluster.runner import StageRun, run_stage
from training.progress_log import read_progress
from training.stages import sft

KILLED_AFTER = 5
SECONDS = 800.0
# Process names as shown by `ps`.
WORKER, HEAD = "RayTrainWorker", "gcs_server"


def until(condition: Callable[[], Any], process: "subprocess.Popen[bytes]") -> Any:
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def named(process: "subprocess.Popen[bytes]", name: str) -> list[int]:
    """Return the descendants with this name in the command line."""
    found = []
    for pid in descendants(process.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def steps_of(root: Path) -> list[int]:
    file = root / "runs" / "killed" / "progress.jsonl"
    return [line.step for line in read_progress(file)] if file.exists() else []


def start(root: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.faults.training_run", "run", str(root)]
    with (root / "run.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process with all descendants."""
    for pid in [*descendants(process.pid), process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


@pytest.mark.long
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("victim", [WORKER, HEAD])
def test_f46_training_continues_bit_for_bit_after_a_kill(
    tmp_path: Path, victim: str, record_property: Any
) -> None:
    toy_model(tmp_path / "first")
    write_lines(tmp_path / "sft.jsonl", sft_rows(4 * STEPS))
    run_stage(StageRun("straight", sft.run, sft_config(tmp_path, "straight")), tmp_path / "runs")
    process = start(tmp_path)
    try:
        until(lambda: KILLED_AFTER in steps_of(tmp_path), process)
        killed = until(lambda: named(process, victim), process)
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        began, reached = time.monotonic(), max(steps_of(tmp_path))
        if victim == HEAD:
            # The run cannot continue by itself, so the loop or Kubernetes starts it again.
            end(process)
            process = start(tmp_path)
        until(
            lambda: (tmp_path / "killed" / "manifest.json").exists() and process.poll() is None,
            process,
        )
        seconds = time.monotonic() - began
    finally:
        end(process)
    lines = [
        line
        for line in (tmp_path / "runs" / "killed" / "progress.jsonl").read_text().splitlines()
        if line
    ]
    repeated = len(lines) - STEPS
    assert 0 <= repeated <= CHECKPOINT_EVERY, "more was lost than what lies between two checkpoints"
    assert (
        verify_manifest(tmp_path / "killed").report == verify_manifest(tmp_path / "straight").report
    )
    one, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("straight", "killed")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    record_property("fired", len(killed))
    record_property("killed_after_step", reached)
    record_property("steps_done_twice", repeated)
    record_property("finished_after_seconds", round(seconds, 1))
