"""Program of the move test: `python -m tests.training.cluster.moved_run DIRECTORY`.

Checkpoints are in the bucket of TW_TRAINING_S3_*. On two workers it trains GRPO with a sharded
policy that an actor samples, then SFT, in which a worker and the driver are killed.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.training.cluster.killed_run import first_time, grpo_config, learn
from training.artifacts.manifest import Manifest
from training.cluster.group import Group
from training.cluster.runner import StageRun, run_stages
from training.optim.optimizers import OptimizerConfig
from training.parallelism.layout import Parallelism
from training.runtime.context import Lineage, Machine, Progress, RunContext
from training.stages import sft
from training.stages.grpo import GrpoConfig
from training.stages.sft import SftConfig

# kills after these steps; every second step has a checkpoint
WORKER_DIES, DRIVER_DIES, STEPS = 3, 7, 12
PREFIX = "checkpoints/moved"
WAIT_SECONDS = 120.0


def sharded(root: Path, output: str, shard: int) -> GrpoConfig:
    """Return a config with one minibatch per update, so the number of workers has no influence."""
    return replace(
        grpo_config(root, output),
        updates=2,
        minibatch_rows=24,
        max_staleness_updates=0,
        importance_cap=None,
        lora=None,
        vocabulary_rows=None,
        policy_optimizer=OptimizerConfig(learning_rate=1e-3, warmup_fraction=0.0),
        parallelism=Parallelism(shard=shard),
    )


def moved(root: Path, output: str) -> SftConfig:
    return SftConfig(
        model_directory=root / "first",
        data_path=root / "sft.jsonl",
        output_directory=root / output,
        lineage=Lineage(output),
        epochs=3,
        batch_rows=8,
        held_out_fraction=0.0,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        checkpoint_every_steps=2,
        machine=Machine(threads=1),
    )


@dataclass(frozen=True)
class Fatal:
    """Run with kills and moves, each once."""

    sft: SftConfig
    marks: Path
    output_directory: Path


def learn_and_move(config: Fatal, context: RunContext) -> Manifest:
    def progress(step: Progress) -> None:
        context.progress(step)
        rank = context.ranks.rank
        if step.step == WORKER_DIES and rank == 1 and first_time("worker died", config.marks):
            os.kill(os.getpid(), signal.SIGKILL)
        if step.step == DRIVER_DIES and rank == 0 and first_time("driver dies", config.marks):
            time.sleep(
                WAIT_SECONDS
            )  # the driver has seen this step, and kills this process with itself

    return sft.run(config.sft, replace(context, progress=progress))


@dataclass(frozen=True)
class Driver:
    """Watcher that kills itself and its children."""

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None:
        if name == "moved" and progress.step == DRIVER_DIES:
            os.kill(os.getpid(), signal.SIGKILL)

    def end(self, name: str) -> None: ...


def stage(root: Path) -> StageRun[Any]:
    return StageRun("moved", learn_and_move, Fatal(moved(root, "moved"), root, root / "moved"))


def main(root: Path) -> None:
    shards = StageRun("sharded", learn, sharded(root, "sharded", 2))
    stages: list[StageRun[Any]] = [shards, stage(root)]
    run_stages(stages, root / "runs", Group(workers=2, rollout_actors=1), Driver(), PREFIX)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
