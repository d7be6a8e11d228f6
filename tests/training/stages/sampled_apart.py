"""What test_split_policies runs in each worker: policies in shards, whose samples come from copies
beside them, made of the weights that are put together and sent, as rollout actors' are. Ray and its
object store alone are missing: a file stands for them.
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
from training.optim.ranks import Ranks
from training.rl.rollout import Rollout, SampleRequest
from training.rl.samplers import SamplingPlan, Weights

RUNS = ("ppo", "grpo-lora")


@dataclass(frozen=True)
class Beside:
    """See Samplers."""

    directory: Path

    def open(self, orders: SamplingPlan, ranks: Ranks) -> "CopyBeside":
        return CopyBeside(self.directory, orders, ranks, Sampler())


@dataclass(frozen=True)
class CopyBeside:
    """One worker's."""

    directory: Path
    orders: SamplingPlan
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
            find, self.orders.made_of, self.orders.stop_ids, version, request
        )


def sampled_apart(directory: Path, rank: int, world: int, name: str, layout: str) -> None:
    """Every worker writes its figures, step by step."""
    for run in RUNS:
        sent = directory / f"{name} {run}"
        sent.mkdir(exist_ok=True)
        policies(directory, rank, world, name, layout, run, Beside(sent))
