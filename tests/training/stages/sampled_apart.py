"""Policies in shards with remote samplers, run in each worker by test_split_policies.

The samplers get gathered weights, like rollout actors, but through a file instead of Ray's object
store.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load_file
from safetensors.torch import save_file

from tests.training.stages.split_policies import policies
from training.cluster.rollout_actors import Sampler
from training.rl.rollout import Rollout, SampleRequest
from training.rl.samplers import SamplingPlan, Weights
from training.runtime.ranks import Ranks

RUNS = ("ppo", "grpo-lora")


@dataclass(frozen=True)
class FileSamplers:
    """Implement `Samplers` with files."""

    directory: Path

    def open(self, plan: SamplingPlan, ranks: Ranks) -> "FileCopies":
        return FileCopies(self.directory, plan, ranks, Sampler())


@dataclass(frozen=True)
class FileCopies:
    """Sampler copies of one worker."""

    directory: Path
    plan: SamplingPlan
    ranks: Ranks
    sampler: Sampler

    def take(self, version: str, weights: Weights) -> None:
        assert bool(weights) == (self.ranks.rank == 0)
        if weights:
            save_file(dict(weights), self.directory / version)
        self.ranks.wait()

    def begin(self, request: SampleRequest, version: str) -> Callable[[], Rollout]:
        def find(_: str) -> tuple[str, Callable[[], Mapping[str, NDArray[Any]]]]:
            return version, lambda: load_file(self.directory / version)

        return lambda: self.sampler.sample(
            find, self.plan.sources, self.plan.stop_ids, version, request
        )


def sampled_apart(directory: Path, rank: int, world: int, name: str, layout: str) -> None:
    """Train with remote samplers; every worker writes its figures."""
    for run in RUNS:
        sent = directory / f"{name} {run}"
        sent.mkdir(exist_ok=True)
        policies(directory, rank, world, name, layout, run, FileSamplers(sent))
