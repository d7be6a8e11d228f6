"""Program of the kill test: `python -m tests.training.cluster.killed_run DIRECTORY`.

It trains GRPO with rollout actors twice: first without interruption, then with an actor, a worker
and the driver killed once each by SIGKILL.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from tests.training.toys import WORDS, toy_model, user, write_lines
from training.artifacts.manifest import Manifest
from training.cluster.group import Group
from training.cluster.rollout_actors import RolloutActors
from training.cluster.runner import StageRun, run_stages
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.rl.scores import Answer
from training.runtime.context import Lineage, Machine, Progress, RunContext
from training.stages import grpo
from training.stages.grpo import GrpoConfig

UPDATES, CHECKPOINT_EVERY = 8, 2
# kills after these updates; checkpoints are at 2, 4, 6
ACTOR_DIES, WORKER_DIES, DRIVER_DIES = 3, 5, 7
ACTORS = 2
WAIT_SECONDS = 120


def grpo_config(root: Path, output: str) -> GrpoConfig:
    """Return a config with sampling one update ahead, adapters and a trimmed vocabulary."""
    return GrpoConfig(
        model_directory=root / "first",
        reward_model_directory=None,
        data_path=root / "prompts.jsonl",
        output_directory=root / output,
        lineage=Lineage(output),
        updates=UPDATES,
        prompts_per_update=6,
        samples_per_prompt=4,
        minibatch_rows=8,
        max_response_tokens=8,
        importance_cap=2.0,
        max_staleness_updates=1,
        policy_optimizer=OptimizerConfig(learning_rate=2e-2),
        lora=LoraConfig(rank=4),
        vocabulary_rows=290,
        checkpoint_every_updates=CHECKPOINT_EVERY,
        length_floor_fraction=0.0,
        machine=Machine(threads=1),
    )


def write_inputs(root: Path) -> None:
    toy_model(root / "first")
    write_lines(
        root / "prompts.jsonl", [{"messages": user(f"{w} {i}")} for i, w in enumerate(WORDS * 2)]
    )


def short(answers: Sequence[Answer]) -> list[float]:
    return [-float(len(answer.text)) for answer in answers]


def learn(config: GrpoConfig, context: RunContext) -> Manifest:
    return grpo.run(config, context, short)


def first_time(what: str, marks: Path) -> bool:
    """Return True on the first call in any process of the run."""
    mark = marks / what
    if mark.exists():
        return False
    mark.touch()
    return True


@dataclass(frozen=True)
class Fatal:
    """Run in which each process dies once."""

    grpo: GrpoConfig
    marks: Path
    output_directory: Path


def learn_and_die(config: Fatal, context: RunContext) -> Manifest:
    def progress(step: Progress) -> None:
        context.progress(step)
        if step.step == ACTOR_DIES and first_time("actor", config.marks):
            assert isinstance(context.samplers, RolloutActors)
            os.kill(ray.get(context.samplers.actors[1].ready.remote()), signal.SIGKILL)
        if step.step == WORKER_DIES and first_time("worker", config.marks):
            os.kill(os.getpid(), signal.SIGKILL)
        if step.step == DRIVER_DIES and first_time("driver", config.marks):
            time.sleep(
                WAIT_SECONDS
            )  # the driver has seen this step, and kills this process with itself

    return learn(config.grpo, replace(context, progress=progress))


@dataclass(frozen=True)
class Driver:
    """Watcher that kills itself and its children once."""

    marks: Path

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None:
        if (
            name == "killed"
            and progress.step == DRIVER_DIES
            and not (self.marks / "driver died").exists()
        ):
            (self.marks / "driver died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def end(self, name: str) -> None: ...


def main(root: Path) -> None:
    stages: list[StageRun[Any]] = [
        StageRun("straight", learn, grpo_config(root, "straight")),
        StageRun(
            "killed", learn_and_die, Fatal(grpo_config(root, "killed"), root, root / "killed")
        ),
    ]
    run_stages(stages, root / "runs", Group(workers=1, rollout_actors=ACTORS), Driver(root))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
