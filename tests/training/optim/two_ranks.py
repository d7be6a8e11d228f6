"""Worker of test_optimizers (tests/training/workers.py): SFT, pre-training, PPO and GRPO.

SFT runs with each optimizer.
"""

from dataclasses import replace
from pathlib import Path

import torch

from tests.training.rl.addition import addition_config, learn_in, right
from tests.training.rl.toy import sentiment, toy_config, toy_networks, train_ppo
from tests.training.stages.pretrain_and_die import pretrain_config
from tests.training.toys import ProgressList, sft_rows, toy_model, write_lines
from training.optim.config import ALGORITHMS
from training.optim.optimizers import OptimizerConfig
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.ranks import all_different
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import pretrain, sft
from training.stages.sft import SftConfig


def train_stages(directory: Path, rank: int, world: int) -> None:
    mine = directory / f"rank-{rank}-of-{world}"
    mine.mkdir()
    progress = ProgressList()
    config = SftConfig(
        model_directory=toy_model(mine / "first"),
        data_path=write_lines(mine / "sft.jsonl", sft_rows(32)),
        output_directory=directory / f"second-{world}",
        lineage=Lineage("second"),
        batch_rows=7,  # one worker reads an additional row
        optimizer=OptimizerConfig(learning_rate=1e-2),
        machine=Machine(threads=1),
    )
    of_sft = {}
    for algorithm in ALGORITHMS:
        steps = ProgressList()
        context = RunContext(
            DirectoryCheckpoints(mine / f"sft-{algorithm}"), steps, all_different(rank, world)
        )
        output = directory / f"second-{algorithm}-{world}"
        optimizer = replace(config.optimizer, algorithm=algorithm)
        sft.run(replace(config, output_directory=output, optimizer=optimizer), context)
        of_sft |= {f"{algorithm} {s.step} loss": s.metrics["loss"] for s in steps.steps}
    again = replace(
        pretrain_config(mine),
        output_directory=directory / f"pretrained-{world}",
        batch_rows=5,
        microbatch_rows=2,
    )
    pretrain.run(
        again,
        RunContext(
            DirectoryCheckpoints(mine / "pretrain-run"), progress, all_different(rank, world)
        ),
    )
    networks = toy_networks()
    context = RunContext(
        DirectoryCheckpoints(mine / "ppo-run"), progress, all_different(rank, world)
    )
    settings = toy_config(updates=1, prompts_per_update=32, minibatch_rows=64, epochs_per_update=1)
    train_ppo(networks, settings, context, sentiment)
    context = RunContext(
        DirectoryCheckpoints(mine / "grpo-run"), progress, all_different(rank, world)
    )
    groups = addition_config(
        0, updates=2, prompts_per_update=8, minibatch_rows=64, filter_zero_variance=True
    )
    sums = learn_in(context, groups, right)
    if rank == 0:
        figures = {
            f"{s.stage} {s.step} {n}": v for s in progress.steps for n, v in s.metrics.items()
        }
        figures = {
            name: value
            for name, value in figures.items()
            if not name.endswith(("per_second", "memory_bytes"))
        }
        figures |= of_sft
        for decoder in (networks.policy.decoder, sums):
            weights = decoder.state_dict()
            figures |= {
                f"sum of {len(figures)} {n}": float(tensor.double().sum())
                for n, tensor in weights.items()
            }
        torch.save(figures, directory / f"figures-{world}.pt")
