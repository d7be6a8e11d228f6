"""Health stage in one of several workers, for test_health."""

import pickle
from pathlib import Path

from tests.training.toys import ProgressList
from training.evaluation import health
from training.runtime.context import RunContext
from training.runtime.ranks import all_different
from training.runtime.training_state import DirectoryCheckpoints

CONFIG = "config.pickle"


def measure(directory: Path, rank: int, world: int) -> None:
    """Run the stage with the config that the test wrote."""
    config = pickle.loads((directory / CONFIG).read_bytes())
    checkpoints = DirectoryCheckpoints(directory / "divided-run")
    health.run(config, RunContext(checkpoints, ProgressList(), all_different(rank, world)))
