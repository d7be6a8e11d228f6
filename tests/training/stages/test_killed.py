"""kill -9 in every stage: the same call again goes on from the last checkpoint and ends with the same bits."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.stages import die_in_every_stage
from tests.training.stages.die_in_every_stage import CHECKPOINT, DIES_AFTER, stages
from tests.training.stages.split_policies import configs, write_data
from training.cluster.progress_log import PROGRESS, read_lines, read_progress
from training.cluster.runner import run_stage
from training.manifest import verify_manifest
from training.parallelism import Parallelism
from training.stages.state import latest_complete

POLICIES = tuple(configs(Path(), Path(), Parallelism()))
NAMES = ("sft", "sft-lora", "reward_model", "reward_model-lora", *POLICIES)


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every stage was killed once."""
    directory = tmp_path_factory.mktemp("killed")
    write_data(directory)
    command = [sys.executable, "-m", die_in_every_stage.__name__, str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_ends_with_the_same_bits(name: str, died: Path) -> None:
    runs = died / "killed" / "runs" / name
    newest = latest_complete(runs)
    assert newest is not None
    assert newest.name == f"step-{CHECKPOINT:06d}"
    straight = stages(died, died / "straight")[name]
    run_stage(straight, died / "straight" / "runs")
    run_stage(stages(died, died / "killed")[name], died / "killed" / "runs")
    one, other = (verify_manifest(died / part / name) for part in ("straight", "killed"))
    assert one.files == other.files
    assert one.report == other.report
    again = read_progress(runs / PROGRESS)
    assert again[0].step == CHECKPOINT + 1
    plain = read_progress(died / "straight" / "runs" / name / PROGRESS)
    assert [step.metrics for step in again] == [step.metrics for step in plain[CHECKPOINT:]]
    assert len(plain) > DIES_AFTER
    assert len(read_lines(runs / PROGRESS)) == len(plain) - CHECKPOINT
