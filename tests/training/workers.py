"""Several workers of a run on one machine, for tests: forked from one process that has imported torch once, joined by gloo.

python -m tests.training.workers MODULE:FUNCTION WORLD DIRECTORY ARGUMENT…   calls FUNCTION(directory, rank, world, *arguments) in each
"""

import importlib
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def run_workers(function: str, world: int, directory: Path, *arguments: str, timeout_seconds: float = 240) -> None:
    """Run them to their end; their output is shown where one fails."""
    command = [sys.executable, "-m", "tests.training.workers", function, str(world), str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _work(function: str, directory: Path, rank: int, world: int, arguments: list[str]) -> None:
    torch.set_num_threads(1)
    if world > 1:
        store = dist.FileStore(str(directory / f"store-{os.getppid()}"), world)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    module, name = function.split(":")
    getattr(importlib.import_module(module), name)(directory, rank, world, *arguments)
    if world > 1:
        dist.destroy_process_group()


def main(function: str, world: int, directory: Path, arguments: list[str]) -> int:
    importlib.import_module(function.split(":")[0])
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=_work, args=(function, directory, rank, world, arguments)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return max(abs(process.exitcode or 0) for process in processes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
