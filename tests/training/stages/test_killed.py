"""Every stage after kill -9 and after a notice of termination.

The same call resumes from the saved state and ends with the same bits.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.stages import die_in_every_stage
from tests.training.stages.die_in_every_stage import CHECKPOINT, DIES_AFTER, stages
from tests.training.stages.split_policies import configs, write_data
from training.artifacts.manifest import verify_manifest
from training.cluster.notice import STOP_FILE
from training.cluster.runner import StageRun, run_stage
from training.parallelism.layout import Parallelism
from training.progress_log import PROGRESS, read_lines, read_progress
from training.runtime.context import Progress, RunContext, StoppedError
from training.runtime.training_state import latest_complete

POLICIES = tuple(configs(Path(), Path(), Parallelism()))
NAMES = ("sft", "sft-lora", "reward_model", "reward_model-lora", *POLICIES)


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every stage was killed once."""
    directory = tmp_path_factory.mktemp("killed")
    write_data(directory)
    command = [sys.executable, "-m", die_in_every_stage.__name__, str(directory)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return directory


def told_after(step: int, stage: StageRun[Any], mark: Path) -> StageRun[Any]:
    """Run the stage with a stop request in this step, which has no scheduled checkpoint."""

    def run(config: Any, context: RunContext) -> Any:
        def told(progress: Progress) -> None:
            context.progress(progress)
            if progress.step == step:
                mark.touch()

        return stage.function(config, replace(context, progress=told))

    return replace(stage, function=run)


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_ends_with_the_same_bits(name: str, died: Path) -> None:
    runs = died / "killed" / "runs" / name
    newest = latest_complete(runs)
    assert newest is not None
    assert newest.name == f"step-{CHECKPOINT:06d}"
    straight, killed = (stages(died, died / part)[name] for part in ("straight", "killed"))
    run_stage(straight, died / "straight" / "runs")
    with pytest.raises(StoppedError) as stopped:
        run_stage(told_after(DIES_AFTER, killed, runs.parent / STOP_FILE), runs.parent)
    assert stopped.value.step == DIES_AFTER
    newest = latest_complete(runs)
    assert newest is not None
    assert newest.name == f"notice-{DIES_AFTER:06d}"
    run_stage(killed, runs.parent)
    assert not list(runs.glob("notice-*")), "it goes with the next that the config asks for"
    one, other = (verify_manifest(died / part / name) for part in ("straight", "killed"))
    assert one.files == other.files
    assert one.report == other.report
    again = read_progress(runs / PROGRESS)
    assert again[0].step == CHECKPOINT + 1
    plain = read_progress(died / "straight" / "runs" / name / PROGRESS)
    assert [step.metrics for step in again] == [step.metrics for step in plain[CHECKPOINT:]]
    assert len(plain) > DIES_AFTER
    assert len(read_lines(runs / PROGRESS)) == len(plain) - CHECKPOINT
