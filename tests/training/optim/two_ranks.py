"""Run by test_optim in processes of their own: one rank of a small SFT, pre-training and PPO."""

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from tests.training.rl.toy import sentiment, toy_config, toy_players, toy_prompts
from tests.training.stages.pretrain_and_die import pretrain_config
from tests.training.toys import ProgressList, sft_rows, toy_model, write_lines
from training.optim.adam import OptimizerConfig
from training.optim.ranks import all_different
from training.stages import ppo, pretrain, sft
from training.stages.context import Lineage, Machine, RunContext
from training.stages.sft import SftConfig
from training.stages.state import DirectoryCheckpoints


def main(directory: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(directory / f"store-{world}"), world)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    mine = directory / f"rank-{rank}-of-{world}"
    mine.mkdir()
    progress = ProgressList()
    context = RunContext(DirectoryCheckpoints(mine / "sft-run"), progress, all_different(rank, world))
    config = SftConfig(
        model_directory=toy_model(mine / "first"),
        data_path=write_lines(mine / "sft.jsonl", sft_rows(32)),
        output_directory=directory / f"second-{world}",
        lineage=Lineage("second"),
        batch_rows=8,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        machine=Machine(threads=1),
    )
    sft.run(config, context)
    again = replace(
        pretrain_config(mine), output_directory=directory / f"pretrained-{world}", batch_rows=6, microbatch_rows=2
    )
    pretrain.run(again, RunContext(DirectoryCheckpoints(mine / "pretrain-run"), progress, all_different(rank, world)))
    players = toy_players()
    context = RunContext(DirectoryCheckpoints(mine / "ppo-run"), progress, all_different(rank, world))
    settings = toy_config(updates=1, prompts_per_update=32, minibatch_rows=64, epochs_per_update=1)
    ppo.train(players, toy_prompts(), sentiment, settings, context, lambda: torch.autocast("cpu", enabled=False))
    if rank == 0:
        figures = {f"{s.stage} {s.step} {n}": v for s in progress.steps for n, v in s.metrics.items()}
        figures.pop("ppo 1 explained_variance")  # each rank's own
        figures = {name: value for name, value in figures.items() if not name.endswith(("per_second", "memory_bytes"))}
        weights = players.policy.decoder.state_dict()
        figures |= {f"sum of {name}": float(tensor.double().sum()) for name, tensor in weights.items()}
        torch.save(figures, directory / f"figures-{world}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
