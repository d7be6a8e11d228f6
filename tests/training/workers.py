"""Several workers of a run on one machine, for tests: forked from a process that has imported torch
once, joined by gloo; and runs that are laid out over them in several ways.

The process that they are forked from stays as long as the tests: an import of everything is longer
than most runs.
"""

import importlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file

from training.stages.context import Progress

PRELOADED = [
    "torch",
    "torch.distributed.tensor",
    "torch._dynamo",
    "tests.training.stages.split_policies",
]
MEASURED = (
    "per_second",
    "memory_bytes",
)  # ends of names of figures that no two runs have in common
KEPT_STEP = 2


def run_workers(
    function: str, world: int, directory: Path, *arguments: str, timeout_seconds: float = 240
) -> None:
    """Call MODULE:FUNCTION(directory, rank, world, *arguments) in each of `world` workers, to their
    end; what they say is shown where one fails.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as beside:
        workers = [
            processes.Process(
                target=_work, args=(function, directory, rank, world, arguments, Path(beside))
            )
            for rank in range(world)
        ]
        for worker in workers:
            worker.start()
        _join(workers, timeout_seconds)
        said = "\n".join(path.read_text() for path in sorted(Path(beside).glob("output-*")))
        assert all(worker.exitcode == 0 for worker in workers), (
            f"{[w.exitcode for w in workers]}\n{said}"
        )


def _join(workers: Sequence[ForkServerProcess], timeout_seconds: float) -> None:
    """Who waits for one that has failed would wait for ever."""
    end, left = time.monotonic() + timeout_seconds, list(workers)
    while left and wait([worker.sentinel for worker in left], max(0.0, end - time.monotonic())):
        left = [worker for worker in left if worker.exitcode is None]
        if any(worker.exitcode for worker in workers):
            end = min(end, time.monotonic() + 5)  # they may have failed too, and say why
    for worker in left:
        worker.kill()
        worker.join()


def _work(
    function: str, directory: Path, rank: int, world: int, arguments: Sequence[str], beside: Path
) -> None:
    with (beside / f"output-{rank}").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    torch.set_num_threads(1)
    if world > 1:
        store = dist.FileStore(str(beside / "store"), world)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    module, name = function.split(":")
    getattr(importlib.import_module(module), name)(directory, rank, world, *arguments)
    if world > 1:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Layouts:
    """Runs that are trained in several layouts, each into a folder of its name. function:
    MODULE:FUNCTION(directory, rank, world, name, layout, run = "" for all). worlds: by name, how
    many workers, and how they split the model.
    """

    function: str
    worlds: Mapping[str, tuple[int, Mapping[str, int]]]

    def train(self, directory: Path) -> None:
        """All runs in each layout."""
        for name in self.worlds:
            self._run(directory, name, name)

    def resume(self, directory: Path, run: str, before: str, after: str) -> str:
        """One run in the layout `after`, from the state that it left in the layout `before`.
        Returns the new folder's name.
        """
        name, kept = f"{before} then {after}", f"{run}-run/step-{KEPT_STEP:06d}"
        shutil.copytree(directory / before / kept, directory / name / kept)
        self._run(directory, name, after, run)
        return name

    def figures(self, directory: Path, name: str, run: str) -> dict[str, float]:
        """What the workers told, step by step: all the same, or they would not stop at the same
        step. name: what follows a comma says what else was so.
        """
        world, _ = self.worlds[name.rpartition(" then ")[2].partition(",")[0]]
        told: list[dict[str, float]] = [
            json.loads((directory / name / f"{run}-{rank}.json").read_text())
            for rank in range(world)
        ]
        assert all(of_one == told[0] for of_one in told)
        return told[0]

    def _run(self, directory: Path, name: str, layout: str, *runs: str) -> None:
        world, split = self.worlds[layout]
        run_workers(self.function, world, directory, name, json.dumps(split), *runs)


def tell(steps: Sequence[Progress], into: Path, run: str, rank: int) -> None:
    """Write what Layouts.figures reads."""
    figures = {
        f"{step.step} {name}": value for step in steps for name, value in step.metrics.items()
    }
    told = {name: value for name, value in figures.items() if not name.endswith(MEASURED)}
    (into / f"{run}-{rank}.json").write_text(json.dumps(told))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Of a model that a run has written."""
    return load_file(directory / "model.safetensors")


def apart(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """The largest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
