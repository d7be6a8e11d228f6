"""Several workers of a run on one machine, for tests.

Workers are forked from a process that has imported torch once, and are joined by gloo. This process
lives as long as the tests, as imports take longer than most runs.
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
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from training.runtime.context import Progress

PRELOADED = [
    "torch",
    "torch.distributed.tensor",
    "torch._dynamo",
    "tests.training.stages.split_policies",
]
# Suffixes of figures that differ between runs.
MEASURED = ("per_second", "memory_bytes")
KEPT_STEP = 2


def run_workers(
    function: str, world: int, directory: Path, *arguments: str, timeout_seconds: float = 240
) -> None:
    """Call MODULE:FUNCTION(directory, rank, world, *arguments) in each of `world` workers.

    The output of the workers is shown if one fails.
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
    """Wait for the workers; after a failure the others have five seconds, as they might block."""
    end, left = time.monotonic() + timeout_seconds, list(workers)
    while left and wait([worker.sentinel for worker in left], max(0.0, end - time.monotonic())):
        left = [worker for worker in left if worker.exitcode is None]
        if any(worker.exitcode for worker in workers):
            end = min(end, time.monotonic() + 5)  # time for their own error messages
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
    """Runs in several layouts, each in a folder of its name.

    function: MODULE:FUNCTION(directory, rank, world, name, layout, run = "" for all). worlds:
    number of workers and split of the model, by name.
    """

    function: str
    worlds: Mapping[str, tuple[int, Mapping[str, int]]]

    def train(self, directory: Path) -> None:
        """Train all runs in each layout."""
        for name in self.worlds:
            self._run(directory, name, name)

    def resume(self, directory: Path, run: str, before: str, after: str) -> str:
        """Resume one run in the layout `after` from its state in the layout `before`.

        Returns:
            the name of the new folder.
        """
        name, kept = f"{before} then {after}", f"{run}-run/step-{KEPT_STEP:06d}"
        shutil.copytree(directory / before / kept, directory / name / kept)
        self._run(directory, name, after, run)
        return name

    def figures(self, directory: Path, name: str, run: str) -> dict[str, float]:
        """Return the figures of all steps, which must be equal on all workers.

        name: a suffix after a comma describes further conditions.
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
    """Write the figures for Layouts.figures."""
    figures = {
        f"{step.step} {name}": value for step in steps for name, value in step.metrics.items()
    }
    told = {name: value for name, value in figures.items() if not name.endswith(MEASURED)}
    (into / f"{run}-{rank}.json").write_text(json.dumps(told))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Return the weights of an output model."""
    return load_file(directory / "model.safetensors")


def require_same_report(
    one: Mapping[str, Any], other: Mapping[str, Any], rel: float, absolute: float
) -> None:
    """Compare two reports of output models: floats within the limits, all else exactly."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, Mapping):
            require_same_report(value, other[name], rel, absolute)
        elif isinstance(value, float):
            assert other[name] == pytest.approx(value, rel=rel, abs=absolute), name
        else:
            assert other[name] == value, name


def apart(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Return the largest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)
