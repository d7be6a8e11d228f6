"""Training processes to be killed by the training scenarios.

`python -m tests.faults.training_run run DIRECTORY` trains under Ray, slowly enough for a fault in
the middle. `… save DIRECTORY` writes checkpoints continuously.
"""

import itertools
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.artifacts.manifest import Manifest
from training.cluster.group import Group
from training.cluster.runner import StageRun, run_stages
from training.optim.optimizers import OptimizerConfig
from training.runtime.context import Lineage, Machine, Progress, RunContext
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import sft
from training.stages.sft import SftConfig

STEPS, CHECKPOINT_EVERY, STEP_SECONDS = 10, 2, 0.4
TENSORS, TENSOR_ELEMENTS = "tensors.safetensors", 1 << 20


def sft_config(root: Path, output: str) -> SftConfig:
    """Return the configuration for ten steps of the toy model in the folder."""
    return SftConfig(
        model_directory=root / "first",
        data_path=root / "sft.jsonl",
        output_directory=root / output,
        lineage=Lineage(output),
        epochs=2,
        batch_rows=8,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        checkpoint_every_steps=CHECKPOINT_EVERY,
        machine=Machine(threads=1),
    )


def run_slowly(config: SftConfig, context: RunContext) -> Manifest:
    """Run the stage with pauses between steps."""

    def progress(step: Progress) -> None:
        context.progress(step)
        time.sleep(STEP_SECONDS)

    return sft.run(config, replace(context, progress=progress))


class NoObserver:
    """Observer without effect, since the progress file has all data."""

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None: ...

    def end(self, name: str) -> None: ...


def save_continuously(directory: Path) -> None:
    """Write checkpoints with the step number in all tensors, until killed."""
    checkpoints = DirectoryCheckpoints(directory)

    def write(step: int, into: Path) -> None:
        save_file(
            {f"t{n}": torch.full((TENSOR_ELEMENTS,), float(step)) for n in range(4)}, into / TENSORS
        )

    latest = checkpoints.latest()
    first = int(latest.name.removeprefix("step-")) + 1 if latest else 1
    for step in itertools.count(first):
        checkpoints.save(step, lambda into, step=step: write(step, into))  # type: ignore[misc]


def main(what: str, root: Path) -> None:
    if what == "save":
        save_continuously(root)
    run_stages(
        [StageRun("killed", run_slowly, sft_config(root, "killed"))],
        root / "runs",
        Group(workers=1),
        NoObserver(),
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
