"""A run that was killed after a checkpoint and resumed, compared with one that was not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.toys import KillAfter, Killed, ProgressList
from training.artifacts.manifest import verify_manifest
from training.runtime.context import RunContext
from training.runtime.training_state import DirectoryCheckpoints

STEP = 5  # of the checkpoint after which the run is killed


def check_same_bits_after_a_kill(stage: Any, config: Any, folder: Path) -> None:
    """Check that both runs have the same metrics, report and files, bit for bit, on a CPU.

    Args:
        stage: module of the stage.
        config: config of the stage with a checkpoint after STEP.
        folder: empty folder for checkpoints and the second output.
    """
    straight, resumed = ProgressList(), ProgressList()
    again = replace(config, output_directory=folder / "again")
    stage.run(config, RunContext(DirectoryCheckpoints(folder / "straight"), straight))
    with pytest.raises(Killed):
        stage.run(again, RunContext(KillAfter(folder / "killed", STEP), ProgressList()))
    stage.run(again, RunContext(DirectoryCheckpoints(folder / "killed"), resumed))
    later = [step.metrics for step in straight.steps[STEP:]]
    assert [step.metrics for step in resumed.steps] == later != []
    one, other = (verify_manifest(each.output_directory) for each in (config, again))
    assert one.report == other.report
    assert one.files == other.files
