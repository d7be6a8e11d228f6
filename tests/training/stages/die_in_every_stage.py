"""Run every stage in a fork that kills itself (as kill -9): a subprocess of test_killed.

The kill is three steps after the start and one step after the last checkpoint.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.training.stages.split_policies import FAST, LORA, MACHINE, RUNS, configs
from training.cluster.runner import StageRun, run_stage
from training.parallelism.layout import Parallelism
from training.runtime.context import Lineage, Progress, RunContext
from training.stages import reward_model, sft
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig

Stage = Callable[[Any, RunContext], Any]
DIES_AFTER, CHECKPOINT = 3, 2


def stages(directory: Path, into: Path) -> dict[str, StageRun[Any]]:
    """Return every stage with all weights and with an adapter.

    The folder is from split_policies.write_data; every second step has a checkpoint.
    """
    common = {
        "model_directory": directory / "first",
        "machine": MACHINE,
        "optimizer": FAST,
        "checkpoint_every_steps": 2,
    }
    of_sft = SftConfig(
        data_path=directory / "sft.jsonl",
        output_directory=into / "sft",
        lineage=Lineage("sft"),
        batch_rows=4,
        held_out_fraction=0.0,
        **common,
    )
    of_reward = RewardModelConfig(
        data_path=directory / "pairs.jsonl",
        output_directory=into / "reward_model",
        lineage=Lineage("reward_model"),
        batch_pairs=6,
        microbatch_pairs=3,
        **common,
    )
    found: dict[str, tuple[Stage, Any]] = {
        "sft": (sft.run, of_sft),
        "reward_model": (reward_model.run, of_reward),
    }
    for name in ("sft", "reward_model"):
        run, config = found[name]
        adapted = {
            "output_directory": into / f"{name}-lora",
            "lineage": Lineage(f"{name}-lora"),
            "lora": LORA,
        }
        found[f"{name}-lora"] = run, replace(config, **adapted)
    for name, config in configs(directory, into, Parallelism()).items():
        longer = replace(config, updates=5) if hasattr(config, "updates") else config
        found[name] = RUNS[name.split("-")[0]], longer
    return {name: StageRun(name, run, config) for name, (run, config) in found.items()}


def dying(run: Stage) -> Stage:
    """Run the stage and kill it after an update without a checkpoint."""

    def until(told: Progress) -> None:
        if told.step == DIES_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda config, context: run(config, replace(context, progress=until))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)  # before forks, which lose threads
    for name, stage in stages(folder, folder / "killed").items():
        child = os.fork()
        if child == 0:
            run_stage(replace(stage, function=dying(stage.function)), folder / "killed" / "runs")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{name} was not killed: {status}")
